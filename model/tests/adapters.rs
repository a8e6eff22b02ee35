//! Adapters against PEFT: logits, the gradient of every matrix, files in both directions, merging.
//! `tests/golden/make_adapters.py` made the numbers.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use model::batch::TokenBatch;
use model::build::Placement;
use model::decoder::{Decoder, LayerStates};
use model::linear::lora::{BaseForm, LoraConfig};
use model::load::{ADAPTER, load_base, load_decoder, load_frozen_decoder, save_decoder};
use model::ops::host::from_values;
use model::weights::checkpoint::Checkpoint;
use model::weights::dtype::WeightDtype;
use model::weights::peft::{AdapterBase, PeftAdapter};
use model::weights::staged_directory::StagedDirectory;
use safetensors::SafeTensors;

const NAMES: [&str; 2] = ["all", "patterns"];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(path)
}

fn base() -> Checkpoint {
    Checkpoint::open(&golden("checkpoints/llama_gqa")).unwrap()
}

fn adapter(name: &str) -> PeftAdapter {
    PeftAdapter::open(&golden("adapters").join(name)).unwrap()
}

fn floats(path: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let fours = file.tensor(name).unwrap().data().as_chunks::<4>().0;
    fours.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

fn integers(name: &str) -> Vec<u32> {
    let bytes = std::fs::read(golden("checkpoints/llama_gqa/batch.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(name).unwrap().data();
    match name {
        "mask" => data.iter().map(|&byte| u32::from(byte)).collect(),
        _ => (data.as_chunks::<8>().0.iter())
            .map(|eight| i64::from_le_bytes(*eight) as u32)
            .collect(),
    }
}

fn batch() -> TokenBatch {
    TokenBatch {
        rows: 2,
        length: 24,
        ids: integers("input_ids"),
        positions: (0..48).map(|i| i % 24).collect(),
        segments: vec![1; 48],
    }
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    let data = tensor.clone().cast(DType::F32).into_data();
    data.try_to_vec().unwrap()
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    values(&decoder.logits(&decoder.hidden(&batch())))
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn logits_equal_peft_and_those_of_the_merged_model() {
    for name in NAMES {
        let computed = golden("adapters").join(name).join("computed.safetensors");
        let [expected, exact] = ["logits", "logits_of_f64"].map(|key| floats(&computed, key));
        let adapted = base().with_adapter(adapter(name)).unwrap();
        let mut decoder = load_frozen_decoder(&adapted, &Placement::cpu()).unwrap();
        let apart = logits(&decoder);
        let [rounding, exact, theirs] =
            [(&expected, &exact), (&apart, &exact), (&apart, &expected)]
                .map(|(a, b)| largest_difference(a, b));
        println!(
            "{name}: logits differ from PEFT's by {theirs:e}; from those in f64 by {exact:e}, PEFT's by {rounding:e}"
        );
        // Two programs that round differently cannot agree better than each of them is exact.
        assert!(exact <= rounding.max(1e-5), "{name}: {exact:e}");
        assert!(theirs <= rounding + 1e-5, "{name}: {theirs:e}");

        let merged = logits(&load_decoder(&adapted, &Placement::cpu()).unwrap());
        let difference = largest_difference(&merged, &apart);
        println!("{name}: merged logits differ by {difference:e}");
        assert!(difference <= 1e-4, "{name}: {difference:e}");

        let place = tempfile::tempdir().unwrap();
        let staged = StagedDirectory::new(&place.path().join("merged")).unwrap();
        save_decoder(&decoder, &staged, WeightDtype::F32).unwrap();
        staged.commit().unwrap();
        let saved = Checkpoint::open(&place.path().join("merged")).unwrap();
        let saved = logits(&load_decoder(&saved, &Placement::cpu()).unwrap());
        assert_eq!(saved, merged, "{name}");

        decoder.use_adapter(None);
        let alone = logits(&load_decoder(&base(), &Placement::cpu()).unwrap());
        assert_eq!(logits(&decoder), alone, "{name}");
        decoder.use_adapter(Some(ADAPTER));
        assert_eq!(logits(&decoder), apart, "{name}");
    }
}

#[test]
fn gradients_equal_peft_with_and_without_checkpointing() {
    let (targets, mask) = (integers("targets"), integers("mask"));
    let count = mask.iter().sum::<u32>() as f32;
    for (name, checkpoint_blocks) in NAMES.iter().flat_map(|name| [(name, false), (name, true)]) {
        let mut decoder = load_base(&base(), &Placement::cpu(), BaseForm::F32).unwrap();
        decoder.freeze();
        adapter(name).attach(ADAPTER, &mut decoder);
        let (hidden, _, tape) = decoder.forward_with_tape(&batch(), checkpoint_blocks, &[]);
        let logits = decoder.logits(&hidden);
        let mut d_logits = values(&burn::tensor::activation::softmax(logits.clone(), 1));
        for (i, row) in d_logits.chunks_mut(logits.dims()[1]).enumerate() {
            row[targets[i] as usize] -= 1.0;
            row.iter_mut().for_each(|x| *x *= mask[i] as f32 / count);
        }
        let d_logits: Tensor<2> = from_values(d_logits, logits.dims());
        let d_hidden = decoder.head().backward(&d_logits);
        decoder.head_mut().accumulate_product(&d_logits, &hidden);
        decoder.backward(tape, d_hidden, &LayerStates::default());
        let mut largest = 0.0_f32;
        let mut compared = 0;
        for parameter in decoder.parameters() {
            let Some(gradient) = &parameter.gradient else {
                assert!(!parameter.trainable, "{}", parameter.name);
                continue;
            };
            let key = format!("gradient.base_model.model.{}", parameter.name);
            let path = golden("adapters").join(name).join("computed.safetensors");
            let expected = floats(&path, &key);
            let norm = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
            let distance = (values(gradient).iter().zip(&expected))
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f32>()
                .sqrt();
            largest = largest.max(distance / norm);
            compared += 1;
        }
        println!("{name}: {compared} gradients differ from PEFT's by {largest:e} of their norms");
        assert!(largest <= 1e-5, "{name}: {largest:e}");
        assert_eq!(compared, if *name == "all" { 28 } else { 12 });
    }
}

#[test]
fn what_is_written_is_read_back_and_belongs_to_its_base() {
    let config = LoraConfig {
        rank: 3,
        alpha: 4.5,
        targets: vec!["layers.1.*.?_proj".into(), "gate_proj".into()],
        ..LoraConfig::default()
    };
    let mut decoder = load_base(&base(), &Placement::cpu(), BaseForm::AsStored).unwrap();
    decoder.add_lora(ADAPTER, &config, 5).unwrap();
    for linear in decoder.linears_mut() {
        if let Some(lora) = linear.adapter_mut() {
            lora.b.value = lora.b.value.clone().add_scalar(0.05);
        }
    }
    let digest = base().digest();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("adapter");
    let of_base = |digest: String| AdapterBase {
        path: golden("checkpoints/llama_gqa"),
        digest,
        form: BaseForm::AsStored,
    };
    let write = |target: &Path, digest: String| {
        let staged = StagedDirectory::new(target).unwrap();
        let adapter = PeftAdapter::of(&decoder, &config, of_base(digest));
        adapter.write(&staged, WeightDtype::F32).unwrap();
        staged.commit().unwrap();
    };
    write(&target, digest.clone());
    let read = PeftAdapter::open(&target).unwrap();
    assert_eq!(read.base(), Some(&of_base(digest)));
    assert_eq!(read.difference(&config, &decoder), None);
    for (other, says) in [
        (
            LoraConfig {
                rank: 4,
                ..config.clone()
            },
            "its rank is 3",
        ),
        (
            LoraConfig {
                targets: vec!["*".into()],
                ..config.clone()
            },
            "does not adapt",
        ),
        (
            LoraConfig {
                targets: vec!["gate_proj".into()],
                ..config.clone()
            },
            "do not name",
        ),
        (
            LoraConfig {
                base: BaseForm::Nf4,
                ..config.clone()
            },
            "\"as_stored\", here it is \"nf4\"",
        ),
    ] {
        let told = read.difference(&other, &decoder).unwrap();
        assert!(told.contains(says), "{told}");
    }
    let adapted = base().with_adapter(read.clone()).unwrap();
    let again = load_frozen_decoder(&adapted, &Placement::cpu()).unwrap();
    assert_eq!(logits(&again), logits(&decoder));

    let other = Checkpoint::open(&golden("checkpoints/llama_tied")).unwrap();
    let error = other.with_adapter(read).unwrap_err().to_string();
    for part in [
        "belongs to another base",
        "llama_tied",
        "digest",
        "is adapted as",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let foreign = Checkpoint::open(&golden("checkpoints/llama_tied")).unwrap();
    let error = foreign
        .with_adapter(adapter("all"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("k_proj` is adapted as [16, 32], but has shape [32, 32]"),
        "{error}"
    );
}

#[test]
fn patterns_that_name_nothing_and_configurations_beyond_lora_are_told() {
    let mut decoder = load_decoder(&base(), &Placement::cpu()).unwrap();
    let config = LoraConfig {
        targets: vec!["q_proj".into(), "query".into()],
        ..LoraConfig::default()
    };
    let error = decoder
        .add_lora(ADAPTER, &config, 0)
        .unwrap_err()
        .to_string();
    for part in [
        "`query` names no linear layer",
        "self_attn.q_proj, ",
        "mlp.down_proj",
        "model.layers.1.",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(decoder.parameters().all(|parameter| parameter.trainable));

    let place = tempfile::tempdir().unwrap();
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    for file in files {
        std::fs::copy(golden("adapters/all").join(file), place.path().join(file)).unwrap();
    }
    let plain = std::fs::read_to_string(place.path().join(files[0])).unwrap();
    for (from, to, says) in [
        (
            "\"use_dora\": false",
            "\"use_dora\": true",
            "`use_dora` true is not supported",
        ),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias` \"all\""),
        (
            "\"peft_type\": \"LORA\"",
            "\"peft_type\": \"IA3\"",
            "`peft_type` \"IA3\"",
        ),
        (
            "\"modules_to_save\": null",
            "\"modules_to_save\": [\"lm_head\"]",
            "`modules_to_save`",
        ),
        (
            "\"init_lora_weights\": true",
            "\"init_lora_weights\": \"pissa\"",
            "`init_lora_weights`",
        ),
        (
            "\"alpha_pattern\": {}",
            "\"alpha_pattern\": {\"(q|k)_proj\": 2}",
            "`alpha_pattern`",
        ),
        (
            "\"alpha_pattern\": {}",
            "\"alpha_pattern\": [1]",
            "alpha_pattern",
        ),
        (
            "\"alpha_pattern\": {}",
            "\"alpha_pattern\": {\"q_proj\": -1e9}",
            "`alpha_pattern` of `q_proj`",
        ),
        ("\"lora_alpha\": 6", "\"lora_alpha\": null", "lora_alpha"),
        ("\"lora_alpha\": 6", "\"lora_alpha\": 1e300", "lora_alpha"),
    ] {
        assert!(plain.contains(from), "{from}");
        std::fs::write(place.path().join(files[0]), plain.replace(from, to)).unwrap();
        let error = PeftAdapter::open(place.path()).unwrap_err().to_string();
        assert!(
            error.contains(says) && error.contains("adapter_config.json"),
            "{error}"
        );
    }
    // EVA changes what the adapter begins with, and not the base.
    let eva = plain.replace(
        "\"init_lora_weights\": true",
        "\"init_lora_weights\": \"eva\", \"eva_config\": {\"rho\": 2.0}",
    );
    let eva = eva.replace("\"eva_config\": null,", "");
    std::fs::write(place.path().join(files[0]), eva).unwrap();
    PeftAdapter::open(place.path()).unwrap();
}
