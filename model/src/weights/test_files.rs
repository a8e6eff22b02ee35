//! Small model files, built byte by byte, that tests read and damage.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::checkpoint::Checkpoint;
use super::dtype::WeightDtype;
use super::error::WeightsError;
use super::gguf::Gguf;
use super::hf_directory::{NamedTensor, write_hf_directory};
use super::names;
use crate::config::{Architecture, DecoderConfig, RopeConfig, RopeScaling};

/// Two layers that a file of some thirty kilobytes holds.
pub(crate) fn tiny_config(architecture: Architecture) -> DecoderConfig {
    DecoderConfig {
        architecture,
        vocab_size: 8,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        rms_norm_eps: 1e-5,
        rope: RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        },
        max_position_embeddings: 128,
        tie_word_embeddings: true,
        qkv_bias: architecture == Architecture::Qwen2,
        output_bias: false,
        mlp_bias: false,
        qk_norm: architecture == Architecture::Qwen3,
        sliding_windows: vec![None; 2],
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: None,
    }
}

/// Value i of tensor number n: small numbers that tell all places apart and survive bf16.
pub(crate) fn tiny_value(tensor: usize, i: usize) -> f32 {
    ((tensor * 31 + i) % 251) as f32 - 125.0
}

/// The tensors of a configuration, filled with [`tiny_value`].
pub(crate) fn tiny_tensors(config: &DecoderConfig) -> Vec<NamedTensor> {
    names::expected_tensors(config)
        .into_iter()
        .enumerate()
        .map(|(number, (name, shape))| {
            let values = (0..shape.iter().product()).map(|i| tiny_value(number, i));
            (name, shape, values.collect())
        })
        .collect()
}

/// A Hugging Face directory with these tensors.
pub(crate) fn tiny_directory(
    config: &DecoderConfig,
    dtype: WeightDtype,
    max_shard_bytes: u64,
) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    write_hf_directory(
        &target,
        config,
        dtype,
        max_shard_bytes,
        tiny_tensors(config),
    )
    .unwrap();
    place
}

/// A GGUF file to be.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) version: u32,
    /// Key, type number, value.
    pairs: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufFileTensor>,
}

#[derive(Clone)]
pub(crate) struct GgufFileTensor {
    pub(crate) name: String,
    /// As in the file: the contiguous axis first.
    pub(crate) axes: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
    /// Instead of the place that follows from the order.
    pub(crate) offset: Option<u64>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array(element: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let count = elements.len() as u64;
    [
        &element.to_le_bytes()[..],
        &count.to_le_bytes(),
        &elements.concat(),
    ]
    .concat()
}

impl GgufFile {
    pub(crate) fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.remove(key);
        self.pairs.push((key.to_owned(), kind, value));
    }

    /// A second pair of the same key.
    pub(crate) fn repeat(&mut self, key: &str) {
        let pair = self
            .pairs
            .iter()
            .find(|pair| pair.0 == key)
            .unwrap()
            .clone();
        self.pairs.push(pair);
    }

    pub(crate) fn set_u32(&mut self, key: &str, value: u32) {
        self.set(key, 4, value.to_le_bytes().to_vec());
    }

    pub(crate) fn set_f32(&mut self, key: &str, value: f32) {
        self.set(key, 6, value.to_le_bytes().to_vec());
    }

    pub(crate) fn set_string(&mut self, key: &str, value: &str) {
        self.set(key, 8, string(value));
    }

    pub(crate) fn set_strings(&mut self, key: &str, values: &[&str]) {
        let elements: Vec<_> = values.iter().map(|value| string(value)).collect();
        self.set(key, 9, array(8, &elements));
    }

    pub(crate) fn set_i32_array(&mut self, key: &str, values: &[i32]) {
        let elements: Vec<_> = values
            .iter()
            .map(|value| value.to_le_bytes().to_vec())
            .collect();
        self.set(key, 9, array(5, &elements));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.pairs.retain(|pair| pair.0 != key);
    }

    /// `shape` is row-major.
    pub(crate) fn add_f32_tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.tensors.push(GgufFileTensor {
            name: name.to_owned(),
            axes: shape.iter().rev().map(|axis| *axis as u64).collect(),
            kind: 0,
            data: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            offset: None,
        });
    }

    pub(crate) fn find(&mut self, name: &str) -> &mut GgufFileTensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap()
    }

    pub(crate) fn tensor_data(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.find(name).data
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.axes.len() as u32).to_le_bytes());
            for axis in &tensor.axes {
                bytes.extend(axis.to_le_bytes());
            }
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).unwrap();
    }

    /// Writes it to a place that is gone when the mapping is.
    pub(crate) fn open(&self) -> Result<Gguf, WeightsError> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("model.gguf");
        self.write(&path);
        Gguf::open(&path)
    }

    pub(crate) fn open_checkpoint(&self) -> Result<Checkpoint, WeightsError> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("model.gguf");
        self.write(&path);
        Checkpoint::open(&path)
    }
}

/// A GGUF file of this configuration, tensors as in [`tiny_tensors`], rows in Hugging Face's order,
/// with a tokenizer.
pub(crate) fn tiny_gguf(config: &DecoderConfig) -> GgufFile {
    let name = match config.architecture {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
    };
    let mut file = GgufFile {
        version: 3,
        pairs: Vec::new(),
        tensors: Vec::new(),
    };
    file.set_string("general.architecture", name);
    for (key, value) in [
        ("block_count", config.num_hidden_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
    ] {
        file.set_u32(&format!("{name}.{key}"), value as u32);
    }
    file.set_f32(&format!("{name}.rope.freq_base"), config.rope.theta as f32);
    file.set_f32(
        &format!("{name}.attention.layer_norm_rms_epsilon"),
        config.rms_norm_eps as f32,
    );
    file.set_string("tokenizer.ggml.model", "gpt2");
    file.set_string("tokenizer.ggml.pre", "smollm");
    file.set_strings(
        "tokenizer.ggml.tokens",
        &["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"],
    );
    file.set_strings("tokenizer.ggml.merges", &["t 1", "t 2"]);
    file.set_i32_array("tokenizer.ggml.token_type", &[3, 3, 3, 1, 1, 1, 1, 1]);
    file.set_u32("tokenizer.ggml.bos_token_id", 1);
    file.set_u32("tokenizer.ggml.eos_token_id", 2);
    file.set("tokenizer.ggml.add_bos_token", 7, vec![0]);
    file.set_string("tokenizer.chat_template", "{{ messages }}");
    for (hf_name, shape, values) in tiny_tensors(config) {
        file.add_f32_tensor(&names::to_gguf(&hf_name).unwrap(), &shape, &values);
    }
    file
}

pub(crate) fn tiny_llama_gguf() -> GgufFile {
    tiny_gguf(&tiny_config(Architecture::Llama))
}
