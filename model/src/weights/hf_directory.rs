//! A model as a Hugging Face directory: `config.json`, `generation_config.json` and safetensors.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::dtype::WeightDtype;
use super::error::WeightsError;
use super::hf_config_writer::{to_generation_json, to_hf_json};
use super::names::expected_tensors;
use super::safetensors_writer::{SafetensorsWriter, tensor_bytes};
use super::staged_directory::StagedDirectory;
use crate::config::DecoderConfig;

/// Hugging Face's customary size of a shard.
pub const DEFAULT_MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// Hugging Face's name, row-major shape, values.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// Writes the directory aside and renames it into place, so that it is whole or not there.
///
/// `tensors` gives exactly those of [`expected_tensors`], in any order, under Hugging Face's names
/// with row-major shapes; one is in memory at a time. More than one file results when the data
/// exceed `max_shard_bytes`.
///
/// # Errors
/// As [`write_hf_files`] and [`StagedDirectory::new`]; nothing is left behind.
pub fn write_hf_directory(
    directory: &Path,
    config: &DecoderConfig,
    dtype: WeightDtype,
    max_shard_bytes: u64,
    tensors: impl IntoIterator<Item = NamedTensor>,
) -> Result<(), WeightsError> {
    let staged = StagedDirectory::new(directory)?;
    let tensors = tensors.into_iter().map(Ok::<_, WeightsError>);
    write_hf_files(&staged, config, dtype, max_shard_bytes, tensors)?;
    staged.commit()
}

/// Writes the files into a directory that the caller commits, perhaps with a tokenizer beside them.
///
/// # Errors
/// The first of `tensors`; [`WeightsError::Unwritable`] for a tensor or a configuration that has no
/// place in the format; [`WeightsError::MissingTensor`], [`WeightsError::Shape`],
/// [`WeightsError::Io`].
pub fn write_hf_files<E: From<WeightsError>>(
    staged: &StagedDirectory,
    config: &DecoderConfig,
    dtype: WeightDtype,
    max_shard_bytes: u64,
    tensors: impl IntoIterator<Item = Result<NamedTensor, E>>,
) -> Result<(), E> {
    let directory = staged.path();
    let json = to_hf_json(&directory.join("config.json"), config, dtype)?;
    staged.write("config.json", pretty(&json).as_bytes())?;
    let json = to_generation_json(config);
    staged.write("generation_config.json", pretty(&json).as_bytes())?;

    let shards = split(expected_tensors(config), dtype, max_shard_bytes);
    let count = shards.len();
    let mut writers = Vec::with_capacity(count);
    let mut weight_map = Map::new();
    let mut total_size = 0_u64;
    for (number, shard) in shards.iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        for (name, shape) in shard {
            weight_map.insert(name.clone(), Value::String(file.clone()));
            total_size = total_size.saturating_add(tensor_bytes(shape, dtype).unwrap_or(u64::MAX));
        }
        writers.push(SafetensorsWriter::create(
            &directory.join(&file),
            dtype,
            shard,
        )?);
    }
    let shard_of = |name: &str| {
        shards
            .iter()
            .position(|shard| shard.iter().any(|(other, _)| other == name))
    };

    for tensor in tensors {
        let (name, shape, values) = tensor?;
        let writer = shard_of(&name)
            .and_then(|shard| writers.get_mut(shard))
            .ok_or_else(|| {
                let problem = format!("tensor `{name}` is not one of this configuration's");
                WeightsError::unwritable(directory, problem)
            })?;
        writer.write(&name, &shape, &values)?;
    }
    for writer in writers {
        writer.finish()?;
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        staged.write("model.safetensors.index.json", pretty(&index).as_bytes())?;
    }
    Ok(())
}

/// Fills shards in order; a tensor larger than a shard has one of its own.
fn split(
    tensors: Vec<(String, Vec<usize>)>,
    dtype: WeightDtype,
    max_shard_bytes: u64,
) -> Vec<Vec<(String, Vec<usize>)>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0_u64;
    for tensor in tensors {
        let bytes = tensor_bytes(&tensor.1, dtype).unwrap_or(u64::MAX);
        if filled > 0 && filled.saturating_add(bytes) > max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled = filled.saturating_add(bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

fn pretty(json: &Value) -> String {
    format!("{json:#}\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Architecture;
    use crate::weights::checkpoint::{Checkpoint, TokenizerSource};
    use crate::weights::test_files::{tiny_config, tiny_directory, tiny_tensors};

    #[test]
    fn what_is_written_is_read_back_whatever_the_type_and_the_shards() {
        let mut config = tiny_config(Architecture::Qwen3);
        config.tie_word_embeddings = false;
        for (dtype, max_shard_bytes, files) in [
            (WeightDtype::F32, DEFAULT_MAX_SHARD_BYTES, 3),
            (WeightDtype::F16, 20_000, 5),
            // Each tensor in a file of its own, though it is larger than a shard.
            (WeightDtype::Bf16, 1, expected_tensors(&config).len() + 3),
        ] {
            let place = tiny_directory(&config, dtype, max_shard_bytes);
            let directory = place.path().join("model");
            assert_eq!(fs::read_dir(&directory).unwrap().count(), files);
            let checkpoint = Checkpoint::open(&directory).unwrap();
            assert_eq!(*checkpoint.config(), config);
            assert_eq!(checkpoint.unknown_tensors().len(), 0);
            assert_eq!(
                checkpoint.tokenizer_source().unwrap(),
                TokenizerSource::Directory(directory)
            );
            for (name, shape, values) in tiny_tensors(&config) {
                let tensor = checkpoint.tensor(&name).unwrap();
                assert_eq!((tensor.shape, tensor.data), (shape, values), "{name}");
            }
        }
    }

    #[test]
    fn the_reference_implementation_reads_what_is_written() {
        let config = tiny_config(Architecture::Llama);
        let place = tiny_directory(&config, WeightDtype::F32, DEFAULT_MAX_SHARD_BYTES);
        let bytes = fs::read(place.path().join("model/model.safetensors")).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, shape, values) in tiny_tensors(&config) {
            let tensor = file.tensor(&name).unwrap();
            let expected: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            assert_eq!((tensor.shape(), tensor.data()), (&shape[..], &expected[..]));
        }
    }

    #[test]
    fn the_digest_follows_the_content() {
        let config = tiny_config(Architecture::Llama);
        let digest = |config: &DecoderConfig, dtype| {
            let place = tiny_directory(config, dtype, DEFAULT_MAX_SHARD_BYTES);
            Checkpoint::open(&place.path().join("model"))
                .unwrap()
                .digest()
        };
        let first = digest(&config, WeightDtype::F32);
        assert_eq!(first.len(), 64);
        assert_eq!(digest(&config, WeightDtype::F32), first);
        assert_ne!(digest(&config, WeightDtype::F16), first);
        let mut other = config;
        other.rope.theta = 5e5;
        assert_ne!(digest(&other, WeightDtype::F32), first);
    }

    #[test]
    fn tensors_that_do_not_fit_are_errors_and_leave_nothing() {
        let config = tiny_config(Architecture::Llama);
        let place = tempfile::tempdir().unwrap();
        let message = |change: fn(&mut Vec<NamedTensor>)| {
            let mut tensors = tiny_tensors(&config);
            change(&mut tensors);
            let target = place.path().join("model");
            let error = write_hf_directory(&target, &config, WeightDtype::F16, 1 << 30, tensors);
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
            error.unwrap_err().to_string()
        };
        assert!(message(|tensors| drop(tensors.pop())).contains("`model.norm.weight` is missing"));
        assert!(message(|tensors| tensors.push(tensors[0].clone())).contains("written before"));
        assert!(
            message(|tensors| tensors[0].0.push('s')).contains("not one of this configuration's")
        );
        assert!(
            message(|tensors| tensors[0].1.reverse())
                .contains("has shape [32, 8], expected [8, 32]")
        );
        assert!(message(|tensors| tensors[0].2.truncate(3)).contains("3 values for shape"));
        assert!(message(|tensors| tensors[0].2[5] = 1e6).contains("value 5 is 1000000"));
    }
}
