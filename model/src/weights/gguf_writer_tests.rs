//! What is written is what is read.

use std::path::Path;

use super::checkpoint::{Checkpoint, TokenizerSource};
use super::error::WeightsError;
use super::gguf_metadata::Metadata;
use super::gguf_vocabulary::GgufVocabulary;
use super::gguf_writer::{GgufSummary, write_gguf};
use super::staged_file::StagedFile;
use super::test_files::{tiny_config, tiny_llama_gguf, tiny_tensors};
use crate::config::{Architecture, DecoderConfig, RopeScaling};
use crate::quant::block_type::GgmlType;
use crate::quant::quantise::round_trip;

fn write(
    path: &Path,
    config: &DecoderConfig,
    kind: GgmlType,
    metadata: &Metadata,
) -> Result<GgufSummary, WeightsError> {
    let tensors = tiny_tensors(config);
    let mut staged = StagedFile::new(path)?;
    let summary = write_gguf(&mut staged, config, kind, metadata, |name| {
        let tensor = tensors.iter().find(|(other, _, _)| other == name);
        Ok::<_, WeightsError>(tensor.unwrap().2.clone())
    })?;
    staged.commit()?;
    Ok(summary)
}

fn without_tokenizer(config: &DecoderConfig) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.no_vocabulary(config);
    metadata
}

/// Configurations with every part that the format can say.
fn configs() -> Vec<DecoderConfig> {
    let architectures = [
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Qwen2,
        Architecture::Qwen3,
    ];
    let mut configs: Vec<_> = architectures.map(tiny_config).into();
    (configs[0].qkv_bias, configs[0].output_bias) = (true, true);
    configs[0].mlp_bias = true;
    configs[0].rope.scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    configs[1].sliding_windows = vec![Some(8); 2];
    configs[2].tie_word_embeddings = false;
    configs[2].eos_token_ids = vec![2, 3, 5];
    configs[3].rope.scaling = RopeScaling::Linear { factor: 4.0 };
    configs
}

#[test]
fn every_architecture_comes_back_with_the_same_numbers() {
    for config in configs() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("model.gguf");
        let summary = write(&path, &config, GgmlType::F32, &without_tokenizer(&config)).unwrap();
        assert_eq!(summary.bytes, std::fs::metadata(&path).unwrap().len());
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(*checkpoint.config(), config);
        assert_eq!(checkpoint.unknown_tensors().len(), 0);
        assert_eq!(
            checkpoint.tokenizer_source().unwrap(),
            TokenizerSource::Absent
        );
        for (name, shape, values) in tiny_tensors(&config) {
            let tensor = checkpoint.tensor(&name).unwrap();
            assert_eq!((tensor.shape, tensor.data), (shape, values), "{name}");
        }
    }
}

#[test]
fn every_type_holds_what_its_round_trip_says() {
    let mut config = tiny_config(Architecture::Llama);
    (config.hidden_size, config.intermediate_size) = (256, 512);
    (config.num_attention_heads, config.num_key_value_heads) = (16, 16);
    for kind in GgmlType::ALL {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("model.gguf");
        let summary = write(&path, &config, kind, &without_tokenizer(&config)).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        for (name, shape, mut values) in tiny_tensors(&config) {
            let planned = summary.tensors.iter().find(|t| t.name == name).unwrap();
            round_trip(planned.kind, &mut values, *shape.last().unwrap()).unwrap();
            assert_eq!(
                checkpoint.tensor(&name).unwrap().data,
                values,
                "{name} {kind:?}"
            );
        }
    }
}

#[test]
fn tokenizers_are_written_and_copied() {
    let config = tiny_config(Architecture::Llama);
    let source = tiny_llama_gguf().open().unwrap();
    let vocabulary = GgufVocabulary::read(&source).unwrap().unwrap();
    let mut written = Metadata::default();
    written.name("tiny");
    written.vocabulary(&vocabulary, &config.eos_token_ids);
    let mut copied = Metadata::default();
    copied.copy(&source, "tokenizer.", &[]);
    for metadata in [written, copied] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("model.gguf");
        write(&path, &config, GgmlType::Q8_0, &metadata).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let found = checkpoint.tokenizer_source().unwrap();
        assert_eq!(found, TokenizerSource::Gguf(Box::new(vocabulary.clone())));
    }
}

#[test]
fn what_the_format_cannot_say_is_refused_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.gguf");
    let problem = |config: &DecoderConfig, kind| {
        let error = write(&path, config, kind, &without_tokenizer(config)).unwrap_err();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        error.to_string()
    };
    let mut config = tiny_config(Architecture::Qwen2);
    config.sliding_windows = vec![None, Some(8)];
    assert!(problem(&config, GgmlType::F32).contains("sliding window"));
    let mut config = tiny_config(Architecture::Llama);
    config.rope.scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 2.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert!(problem(&config, GgmlType::F32).contains("llama3"));

    let config = tiny_config(Architecture::Llama);
    let mut staged = StagedFile::new(&path).unwrap();
    let metadata = without_tokenizer(&config);
    let huge = |name: &str| {
        let tensors = tiny_tensors(&config);
        let tensor = tensors.into_iter().find(|(other, _, _)| other == name);
        Ok::<_, WeightsError>(tensor.unwrap().2.iter().map(|_| 1e30).collect())
    };
    let error = write_gguf(&mut staged, &config, GgmlType::Q4_0, &metadata, huge).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("embed_tokens.weight`: value ") && error.contains("Q8_0 cannot hold"),
        "{error}"
    );
}
