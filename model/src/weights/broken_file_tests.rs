//! Files that are truncated, that lie and that contradict themselves: an error each, never a panic.

use std::fs;
use std::path::Path;

use super::checkpoint::{Checkpoint, TokenizerSource};
use super::dtype::WeightDtype;
use super::gguf::Gguf;
use super::names::expected_tensors;
use super::safetensors::SafetensorsFile;
use super::test_files::{GgufFile, tiny_config, tiny_directory, tiny_gguf, tiny_llama_gguf};
use crate::config::Architecture;

fn gguf_message(change: impl FnOnce(&mut GgufFile)) -> String {
    let mut file = tiny_llama_gguf();
    change(&mut file);
    file.open_checkpoint().unwrap_err().to_string()
}

fn gguf_bytes_message(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Gguf::open(file.path()).unwrap_err().to_string()
}

#[test]
fn broken_gguf_heads_are_errors() {
    let bytes = tiny_llama_gguf().bytes();
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        gguf_bytes_message(&bytes)
    };
    assert!(gguf_bytes_message(&[]).contains("is empty"));
    assert!(gguf_bytes_message(b"GG").contains("truncated"));
    assert!(gguf_bytes_message(&bytes[..100]).contains("truncated"));
    assert!(gguf_bytes_message(&bytes[..bytes.len() - 100]).contains("truncated"));
    assert!(with(0, b"GGML").contains("no GGUF file"));
    assert!(with(4, &[1, 0, 0, 0]).contains("version 1"));
    assert!(with(4, &[0, 0, 0, 3]).contains("big-endian"));
    assert!(with(8, &u64::MAX.to_le_bytes()).contains("tensor header"));
    assert!(with(16, &u64::MAX.to_le_bytes()).contains("metadata pair"));
    assert!(with(24, &u64::MAX.to_le_bytes()).contains("truncated"));
    assert!(with(32, &[255, 254]).contains("UTF-8"));
}

#[test]
fn broken_gguf_metadata_are_errors() {
    assert!(gguf_message(|file| file.repeat("tokenizer.ggml.pre")).contains("appears twice"));
    assert!(gguf_message(|file| file.set("x", 13, Vec::new())).contains("type 13"));
    assert!(gguf_message(|file| file.set("x", 7, vec![2])).contains("neither 0 nor 1"));
    assert!(gguf_message(|file| file.set_u32("general.alignment", 0)).contains("power of two"));
    assert!(gguf_message(|file| file.set_u32("general.alignment", 48)).contains("power of two"));
    let huge = (1_u64 << 63).to_le_bytes().to_vec();
    assert!(
        gguf_message(|file| file.set("general.alignment", 10, huge)).contains("beyond the end")
    );
    assert!(gguf_message(|file| file.set_u32("split.count", 3)).contains("3 files"));
}

#[test]
fn broken_gguf_tensors_are_errors() {
    let tensor = "blk.1.ffn_up.weight";
    let message = |change: fn(&mut super::test_files::GgufFileTensor)| {
        let text = gguf_message(|file| change(file.find(tensor)));
        assert!(text.contains(tensor), "{text}");
        text
    };
    assert!(message(|tensor| tensor.kind = 10).contains("Q2_K"));
    assert!(message(|tensor| tensor.kind = 77).contains("number 77"));
    // 32 columns are no block of 256.
    assert!(message(|tensor| tensor.kind = 14).contains("whole Q6_K blocks"));
    assert!(message(|tensor| tensor.axes.clear()).contains("0 axes"));
    assert!(message(|tensor| tensor.axes = vec![1; 5]).contains("5 axes"));
    assert!(message(|tensor| tensor.axes = vec![0, 4]).contains("impossible length"));
    assert!(message(|tensor| tensor.axes = vec![1 << 40, 1 << 40]).contains("overflows"));
    assert!(message(|tensor| tensor.axes = vec![1 << 30]).contains("beyond the end"));
    assert!(message(|tensor| tensor.offset = Some(4)).contains("alignment"));
    assert!(message(|tensor| tensor.offset = Some(u64::MAX - 31)).contains("beyond the end"));
    assert!(message(|tensor| tensor.offset = Some(0)).contains("overlap"));
    assert!(message(|tensor| tensor.axes = vec![64, 32]).contains("expected [64, 32]"));
    let missing = gguf_message(|file| file.tensors.retain(|other| other.name != tensor));
    assert!(
        missing.contains("missing") && missing.contains(tensor),
        "{missing}"
    );
    let twice = gguf_message(|file| {
        let tensor = file.find(tensor).clone();
        file.tensors.push(tensor);
    });
    assert!(twice.contains("appears twice"), "{twice}");
    let bias = gguf_message(|file| file.add_f32_tensor("blk.1.attn_k.bias", &[16], &[0.5; 16]));
    assert!(
        bias.contains("blk.1.attn_k.bias") && bias.contains("silently"),
        "{bias}"
    );
}

#[test]
fn unknown_gguf_tensors_are_listed() {
    let mut file = tiny_llama_gguf();
    file.add_f32_tensor("mystery.weight", &[1], &[0.0]);
    file.add_f32_tensor("blk.0.attn_rot_embd.weight", &[1], &[0.0]);
    let checkpoint = file.open_checkpoint().unwrap();
    assert_eq!(checkpoint.unknown_tensors(), ["mystery.weight"]);
    // A layer computes with all that it has.
    for (name, says) in [
        ("blk.0.mystery.weight", "nothing is known"),
        ("blk.0.attn_q.scale", "nothing is known"),
        ("blk.2.attn_q.weight", "has 2 layers"),
    ] {
        let text = gguf_message(|file| file.add_f32_tensor(name, &[1], &[0.0]));
        assert!(text.contains(name) && text.contains(says), "{text}");
    }
}

/// A file with this header and so many bytes of data.
fn safetensors_message(header: &str, data: usize) -> String {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    safetensors_bytes_message(&bytes)
}

fn safetensors_bytes_message(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    SafetensorsFile::open(file.path()).unwrap_err().to_string()
}

#[test]
fn broken_safetensors_are_errors() {
    assert!(safetensors_bytes_message(&[1, 0, 0]).contains("too short"));
    assert!(safetensors_bytes_message(&[255; 16]).contains("claims a header"));
    assert!(safetensors_bytes_message(&[99, 0, 0, 0, 0, 0, 0, 0, b'{']).contains("truncated"));
    assert!(safetensors_message("{", 0).contains("cannot be read"));
    assert!(safetensors_message("[]", 0).contains("an object with an entry"));
    assert!(safetensors_message(r#"{"a":{"dtype":"F32"}}"#, 0).contains("`a`"));
    let one = |dtype: &str, shape: &str, offsets: &str, data| {
        let header =
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        let text = safetensors_message(&header, data);
        assert!(text.contains("`a`"), "{text}");
        text
    };
    assert!(one("F32", "[2]", "[0,8]", 4).contains("truncated"));
    assert!(one("F32", "[2]", "[8,0]", 8).contains("truncated"));
    assert!(one("F32", "[3]", "[0,8]", 8).contains("8 bytes of data for 3 values"));
    assert!(one("F32", "[-1]", "[0,8]", 8).contains("-1"));
    assert!(one("F32", "[4294967296,4294967296]", "[0,8]", 8).contains("overflows"));
    assert!(one("F32", "[1]", "[4,8]", 8).contains("belong to none"));
    let two = |first: &str, second: &str, data| {
        safetensors_message(
            &format!(
                r#"{{"{first}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},
                    "{second}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}}}"#,
                data - 4,
                data
            ),
            data,
        )
    };
    assert!(two("a", "a", 8).contains("appears twice"));
    assert!(two("a", "b", 6).contains("overlap"));
    let tail = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert!(safetensors_message(tail, 8).contains("belong to no tensor"));
}

#[test]
fn broken_directories_are_errors() {
    let config = tiny_config(Architecture::Qwen2);
    let message = |damage: &dyn Fn(&Path)| {
        let place = tiny_directory(&config, WeightDtype::F32, 8_000);
        let directory = place.path().join("model");
        damage(&directory);
        Checkpoint::open(&directory).unwrap_err().to_string()
    };
    let replace = |file: &'static str, old: &'static str, new: &'static str| {
        move |directory: &Path| {
            let path = directory.join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(old));
            fs::write(&path, text.replacen(old, new, 1)).unwrap();
        }
    };
    let index = "model.safetensors.index.json";
    let remove =
        |file: &'static str| move |directory: &Path| fs::remove_file(directory.join(file)).unwrap();
    assert!(message(&remove("config.json")).contains("without config.json"));
    assert!(message(&remove(index)).contains("without safetensors"));
    let lose_a_shard = |directory: &Path| {
        let mut files = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().path());
        let shard = files.find(|file| file.to_string_lossy().contains("-00002-of-"));
        fs::remove_file(shard.unwrap()).unwrap();
    };
    let text = message(&lose_a_shard);
    assert!(
        text.contains("-00002-of-") && text.contains("No such file"),
        "{text}"
    );
    assert!(message(&replace("config.json", "{", "[")).contains("not valid JSON"));
    let text = message(&replace(
        "config.json",
        "\"intermediate_size\": 64",
        "\"intermediate_size\": 32",
    ));
    assert!(
        text.contains("has shape [64, 32], expected [32, 32]"),
        "{text}"
    );
    assert!(message(&replace(index, "weight_map", "map")).contains("`weight_map` is absent"));
    let text = message(&replace(index, "\"model-00001", "\"../model-00001"));
    assert!(
        text.contains("the name of a file in the directory"),
        "{text}"
    );
    let text = message(&replace(index, "model.norm.weight", "model.other.weight"));
    assert!(
        text.contains("`model.other.weight` is missing, though"),
        "{text}"
    );
    // Qwen3 has no biases and has norms of its own; Llama has neither.
    let text = message(&replace("config.json", "\"qwen2\"", "\"llama\""));
    assert!(text.contains("_proj.bias` is in the file"), "{text}");
    assert!(
        message(&replace("config.json", "\"qwen2\"", "\"qwen3\""))
            .contains("q_norm.weight` is missing")
    );
    let untied = "\"tie_word_embeddings\": false";
    let text = message(&replace(
        "config.json",
        "\"tie_word_embeddings\": true",
        untied,
    ));
    assert!(
        text.contains("lm_head.weight") && text.contains("tie_word_embeddings"),
        "{text}"
    );
    assert!(
        Checkpoint::open(Path::new("/nowhere/at/all"))
            .unwrap_err()
            .to_string()
            .contains("/nowhere")
    );
}

/// A generator that needs no crate: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    /// Flips or overwrites a few bytes, most of them in the head, or cuts the end off.
    fn damage(&mut self, bytes: &mut Vec<u8>, head: usize) {
        if self.below(8) == 0 {
            bytes.truncate(self.below(bytes.len()));
            return;
        }
        for _ in 0..=self.below(3) {
            let limit = if self.below(8) == 0 {
                bytes.len()
            } else {
                head
            };
            let at = self.below(limit);
            bytes[at] = match self.below(4) {
                0 => bytes[at] ^ (1 << self.below(8)),
                1 => 255,
                2 => 0,
                _ => self.below(256) as u8,
            };
        }
    }
}

/// Reads all that can be read.
fn exhaust(checkpoint: &Checkpoint) {
    for (name, shape) in expected_tensors(checkpoint.config()) {
        let tensor = checkpoint.tensor(&name).unwrap();
        assert_eq!(tensor.data.len(), shape.iter().product::<usize>());
    }
    if let Ok(TokenizerSource::Gguf(vocabulary)) = checkpoint.tokenizer_source() {
        assert!(
            vocabulary
                .eos
                .is_none_or(|id| (id as usize) < vocabulary.tokens.len())
        );
    }
}

#[test]
fn randomly_damaged_gguf_files_never_panic() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.gguf");
    let mut opened = 0;
    for architecture in [Architecture::Llama, Architecture::Qwen2] {
        let file = tiny_gguf(&tiny_config(architecture));
        let head = file.bytes().len() - file.tensors.iter().map(|t| t.data.len()).sum::<usize>();
        let mut random = Random(architecture as u64);
        for _ in 0..3000 {
            let mut bytes = file.bytes();
            random.damage(&mut bytes, head);
            fs::write(&path, bytes).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(&path) {
                exhaust(&checkpoint);
                opened += 1;
            }
        }
    }
    // Some damage does no harm: both sides are exercised.
    assert!((100..5900).contains(&opened), "{opened}");
}

#[test]
fn randomly_damaged_directories_never_panic() {
    let place = tiny_directory(&tiny_config(Architecture::Qwen3), WeightDtype::Bf16, 8_000);
    let directory = place.path().join("model");
    let mut random = Random(7);
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        let whole = fs::read(&path).unwrap();
        let head = match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => 8 + usize::from(u16::from_le_bytes([whole[0], whole[1]])),
            _ => whole.len(),
        };
        for _ in 0..600 {
            let mut bytes = whole.clone();
            random.damage(&mut bytes, head);
            fs::write(&path, bytes).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(&directory) {
                exhaust(&checkpoint);
            }
        }
        fs::write(&path, whole).unwrap();
    }
    Checkpoint::open(&directory).unwrap();
}
