//! A model to read, whatever its format.

mod tensors;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::error::WeightsError;
use super::gguf::Gguf;
use super::gguf_config::from_gguf;
use super::gguf_vocabulary::GgufVocabulary;
use super::hf_config::read_hf_config;
use super::model_files::ModelFiles;
use super::names::expected_tensors;
use super::peft::PeftAdapter;
use super::quantization::Quantization;
use super::shards::Shards;
use crate::config::DecoderConfig;
use crate::linear::lora::BaseForm;
pub use tensors::LoadedTensor;

/// An open model: its configuration, and its tensors on demand under Hugging Face's names.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: DecoderConfig,
    /// Shapes that the configuration calls for.
    expected: HashMap<String, Vec<usize>>,
    unknown: Vec<String>,
    files: ModelFiles,
    adapter: Option<PeftAdapter>,
    quantization: Option<Quantization>,
}

/// Where a model's tokenizer is.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// A Hugging Face directory, perhaps with a `tokenizer.json`.
    Directory(PathBuf),
    /// The model's own file.
    Gguf(Box<GgufVocabulary>),
    /// A GGUF file that says that there is none.
    Absent,
}

impl Checkpoint {
    /// Opens a `.gguf` file, a `.safetensors` file beside a `config.json`, or a Hugging Face
    /// directory. Headers are read and checked against the configuration, tensor data are not.
    ///
    /// # Errors
    /// [`WeightsError`] of every kind but [`WeightsError::Unwritable`]: among others if a tensor
    /// that the configuration calls for is missing, or one that it denies (a bias, a norm, a head
    /// that differs from the embedding it is tied to) is there.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let metadata = fs::metadata(path).map_err(WeightsError::io(path))?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let (config, files) = if metadata.is_dir() {
            if !path.join("config.json").exists() {
                let accepted = "a Hugging Face directory, or the path of the .gguf file itself";
                let found = "without config.json";
                return Err(WeightsError::unsupported(
                    path,
                    "a directory",
                    found,
                    accepted,
                ));
            }
            (
                read_hf_config(path)?,
                ModelFiles::Safetensors(Shards::open(path)?),
            )
        } else if extension == Some("safetensors") {
            let directory = path.parent().unwrap_or(Path::new(""));
            let shards = Shards::from_file(directory, path)?;
            (read_hf_config(directory)?, ModelFiles::Safetensors(shards))
        } else if extension == Some("gguf") || metadata.is_file() && begins_as_gguf(path)? {
            let gguf = Gguf::open(path)?;
            (from_gguf(&gguf)?, ModelFiles::Gguf(gguf))
        } else {
            let accepted =
                "a .gguf file, a .safetensors file beside a config.json, a Hugging Face directory";
            return Err(WeightsError::unsupported(
                path,
                "a model file of",
                "this kind",
                accepted,
            ));
        };
        let expected = expected_tensors(&config);
        files.check_expected(path, &expected)?;
        let expected = expected.into_iter().collect();
        let unknown = files.check_others(path, &expected, config.num_hidden_layers)?;
        if let Some(first) = unknown.first() {
            let (path, count) = (path.display(), unknown.len());
            tracing::warn!("{path}: {count} unknown tensors are ignored, the first `{first}`");
        }
        let quantization = match &files {
            ModelFiles::Safetensors(shards) if Quantization::is_at(shards.directory()) => {
                Some(Quantization::open(shards.directory(), &expected)?)
            }
            _ => None,
        };
        Ok(Self {
            path: path.to_owned(),
            config,
            expected,
            unknown,
            files,
            adapter: None,
            quantization,
        })
    }

    /// The model that the adapter makes of this one: what is read from it is merged.
    ///
    /// # Errors
    /// [`WeightsError::OtherBase`] when the adapter does not fit, or was trained on something else.
    pub fn with_adapter(mut self, adapter: PeftAdapter) -> Result<Self, WeightsError> {
        let other = |problem: String| WeightsError::OtherBase {
            adapter: adapter.path().to_owned(),
            base: self.path.clone(),
            problem,
        };
        if let Some(first) = &self.adapter {
            let problem = format!("it has an adapter already, {}", first.path().display());
            return Err(other(problem));
        }
        let misfit = adapter.misfit(&self.expected);
        if let Some(base) = adapter.base() {
            let digest = self.digest();
            if digest != base.digest {
                let shapes = misfit.unwrap_or_else(|| "the shapes are the same".to_owned());
                return Err(other(format!(
                    "it was trained on one with digest {}, this one has {digest}; {shapes}",
                    base.digest
                )));
            }
        }
        if let Some(misfit) = misfit {
            return Err(other(misfit));
        }
        self.adapter = Some(adapter);
        Ok(self)
    }

    pub fn adapter(&self) -> Option<&PeftAdapter> {
        self.adapter.as_ref()
    }

    /// How the model was quantised, where that is written beside it.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// How the adapter wants its base to be held.
    pub fn base_form(&self) -> BaseForm {
        self.adapter
            .as_ref()
            .map_or_else(BaseForm::default, PeftAdapter::form)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Tensors of the file that take no part in the computation and were ignored, by their names in
    /// the file.
    pub fn unknown_tensors(&self) -> &[String] {
        &self.unknown
    }

    /// The open file of a model in GGUF.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.files {
            ModelFiles::Gguf(gguf) => Some(gguf),
            ModelFiles::Safetensors(_) => None,
        }
    }

    /// Number of values in all tensors.
    pub fn parameter_count(&self) -> u64 {
        let count = |shape: &Vec<usize>| shape.iter().map(|axis| *axis as u64).product::<u64>();
        self.expected.values().map(count).sum()
    }

    /// Where the tokenizer is: beside the adapter if one is there, else with the model, whose directory is not looked
    /// into.
    ///
    /// # Errors
    /// As [`GgufVocabulary::read`].
    pub fn tokenizer_source(&self) -> Result<TokenizerSource, WeightsError> {
        let beside = self
            .adapter
            .as_ref()
            .and_then(PeftAdapter::tokenizer_directory);
        if let Some(directory) = beside {
            return Ok(TokenizerSource::Directory(directory));
        }
        match &self.files {
            ModelFiles::Gguf(gguf) => {
                let vocabulary = GgufVocabulary::read(gguf)?;
                Ok(vocabulary.map_or(TokenizerSource::Absent, |vocabulary| {
                    TokenizerSource::Gguf(Box::new(vocabulary))
                }))
            }
            ModelFiles::Safetensors(shards) => {
                Ok(TokenizerSource::Directory(shards.directory().to_owned()))
            }
        }
    }

    /// SHA-256 over configuration and weights, without the adapter, as hexadecimal digits: equal for equal models of one
    /// format, wherever they lie. Reads every byte; callers keep it.
    pub fn digest(&self) -> String {
        let parts: Vec<&[u8]> = match &self.files {
            ModelFiles::Gguf(gguf) => vec![gguf.file_bytes()],
            ModelFiles::Safetensors(shards) => shards.bytes(),
        };
        let parts: Vec<_> = parts.into_par_iter().map(Sha256::digest).collect();
        let mut whole = Sha256::new();
        // The parsed form: key order and spaces of a config.json make no other model.
        whole.update(json!(self.config).to_string());
        for part in parts {
            whole.update(part);
        }
        whole
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn begins_as_gguf(path: &Path) -> Result<bool, WeightsError> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(WeightsError::io(path))?;
    file.take(4)
        .read_to_end(&mut head)
        .map_err(WeightsError::io(path))?;
    Ok(head == b"GGUF")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Architecture;
    use crate::weights::dtype::WeightDtype;
    use crate::weights::test_files::{tiny_config, tiny_directory, tiny_gguf, tiny_tensors};

    #[test]
    fn gguf_tensors_come_under_hugging_face_names_and_in_its_order() {
        for architecture in [Architecture::Llama, Architecture::Qwen2] {
            let mut config = tiny_config(architecture);
            (config.qkv_bias, config.output_bias) = (true, architecture == Architecture::Llama);
            let checkpoint = tiny_gguf(&config).open_checkpoint().unwrap();
            assert_eq!(*checkpoint.config(), config);
            for (name, shape, values) in tiny_tensors(&config) {
                let tensor = checkpoint.tensor(&name).unwrap();
                assert_eq!(tensor.shape, shape);
                let is_permuted = architecture == Architecture::Llama
                    && (name.contains("q_proj") || name.contains("k_proj"));
                if !is_permuted {
                    assert_eq!(tensor.data, values, "{name}");
                    continue;
                }
                // As the converter does it, backwards: (heads, 16/2, 2, columns) to (heads, 2,
                // 16/2, columns).
                let columns = shape.get(1).copied().unwrap_or(1);
                for (at, value) in tensor.data.iter().enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let (head, half, i) = (row / 16, row % 16 / 8, row % 8);
                    assert_eq!(
                        *value,
                        values[(head * 16 + i * 2 + half) * columns + column],
                        "{name}"
                    );
                }
            }
            assert!(matches!(
                checkpoint.tokenizer_source(),
                Ok(TokenizerSource::Gguf(_))
            ));
            assert_eq!(checkpoint.digest().len(), 64);
            let error = checkpoint.tensor("lm_head.weight").unwrap_err().to_string();
            assert!(error.contains("output.weight"), "{error}");
        }
    }

    #[test]
    fn parameters_are_counted_once() {
        let mut config = tiny_config(Architecture::Llama);
        let count = |config: &DecoderConfig| {
            tiny_gguf(config)
                .open_checkpoint()
                .unwrap()
                .parameter_count()
        };
        let tied = count(&config);
        config.tie_word_embeddings = false;
        assert_eq!(count(&config), tied + 8 * 32);
    }

    #[test]
    fn a_tied_model_may_carry_its_head_only_if_it_repeats_the_embedding() {
        let mut config = tiny_config(Architecture::Llama);
        config.tie_word_embeddings = false;
        let place = tiny_directory(&config, WeightDtype::F32, 1);
        let directory = place.path().join("model");
        let tie = |path: &Path| {
            let text = fs::read_to_string(path).unwrap();
            let untied = "\"tie_word_embeddings\": false";
            fs::write(path, text.replace(untied, "\"tie_word_embeddings\": true")).unwrap();
        };
        tie(&directory.join("config.json"));
        let error = Checkpoint::open(&directory).unwrap_err().to_string();
        assert!(error.contains("ties the head"), "{error}");
    }

    #[test]
    fn a_single_file_is_opened_with_the_configuration_beside_it() {
        let config = tiny_config(Architecture::Mistral);
        let place = tiny_directory(&config, WeightDtype::Bf16, u64::MAX);
        let directory = place.path().join("model");
        let file = Checkpoint::open(&directory.join("model.safetensors")).unwrap();
        assert_eq!(*file.config(), config);
        assert_eq!(
            file.digest(),
            Checkpoint::open(&directory).unwrap().digest()
        );
        let error = Checkpoint::open(&directory.join("config.json"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("a .gguf file"), "{error}");
    }

    /// Every tensor that transformers saved, as the reference implementation of the format reads
    /// it.
    #[test]
    fn what_transformers_saved_is_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
        let mut read = 0;
        for entry in fs::read_dir(golden).unwrap() {
            let directory = entry.unwrap().path();
            let checkpoint = Checkpoint::open(&directory).unwrap();
            assert!(checkpoint.unknown_tensors().is_empty());
            for file in fs::read_dir(&directory)
                .unwrap()
                .map(|file| file.unwrap().path())
            {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                if !(name.starts_with("model") && name.ends_with(".safetensors")) {
                    continue;
                }
                let bytes = fs::read(&file).unwrap();
                for (name, expected) in safetensors::SafeTensors::deserialize(&bytes)
                    .unwrap()
                    .iter()
                {
                    let tensor = checkpoint.tensor(name).unwrap();
                    assert_eq!(tensor.shape, expected.shape());
                    let widen = |pair: &[u8; 2]| match expected.dtype() {
                        safetensors::Dtype::F16 => half::f16::from_le_bytes(*pair).to_f32(),
                        _ => half::bf16::from_le_bytes(*pair).to_f32(),
                    };
                    let values: Vec<f32> = match expected.dtype() {
                        safetensors::Dtype::F32 => {
                            let fours = expected.data().as_chunks::<4>().0;
                            fours.iter().map(|four| f32::from_le_bytes(*four)).collect()
                        }
                        _ => expected
                            .data()
                            .as_chunks::<2>()
                            .0
                            .iter()
                            .map(widen)
                            .collect(),
                    };
                    assert_eq!(tensor.data, values, "{name}");
                    read += 1;
                }
            }
        }
        assert!(read > 100);
    }
}
