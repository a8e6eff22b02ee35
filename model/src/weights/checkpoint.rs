//! A model to read, whatever its format.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::error::WeightsError;
use super::gguf::Gguf;
use super::gguf_config::{self, ROPE_DIVISORS};
use super::gguf_vocabulary::GgufVocabulary;
use super::hf_config::{read_hf_config, read_json};
use super::json_fields::JsonFields;
use super::names::{self, expected_tensors};
use super::safetensors::SafetensorsFile;
use crate::config::DecoderConfig;
use crate::quant::blocks::dequantize_rows;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// A larger index is none.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// An open model: its configuration, and its tensors on demand under Hugging Face's names.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: DecoderConfig,
    /// Shapes that the configuration calls for.
    expected: HashMap<String, Vec<usize>>,
    unknown: Vec<String>,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Gguf(Gguf),
    Safetensors {
        directory: PathBuf,
        shards: Vec<SafetensorsFile>,
        /// Which shard holds a tensor.
        shard_of: HashMap<String, usize>,
    },
}

/// A tensor's values, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedTensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// Where a model's tokenizer is.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// A Hugging Face directory, perhaps with a `tokenizer.json`.
    Directory(PathBuf),
    /// The model's own file.
    Gguf(Box<GgufVocabulary>),
}

impl Checkpoint {
    /// Opens a `.gguf` file, a `.safetensors` file beside a `config.json`, or a Hugging Face
    /// directory. Headers are read and checked against the configuration, tensor data are not.
    ///
    /// # Errors
    /// [`WeightsError`] of every kind but the last: among others if a tensor that the configuration calls for is missing, or one that it
    /// denies (a bias, a norm, a head that differs from the embedding it is tied to) is there.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let metadata = fs::metadata(path).map_err(WeightsError::io(path))?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let (config, files) = if metadata.is_dir() {
            (read_hf_config(path)?, open_directory(path)?)
        } else if extension == Some("safetensors") {
            let directory = path.parent().unwrap_or(Path::new("")).to_owned();
            let config = read_hf_config(&directory)?;
            (config, one_file(directory, SafetensorsFile::open(path)?))
        } else if extension == Some("gguf") || begins_as_gguf(path)? {
            let gguf = Gguf::open(path)?;
            (gguf_config::from_gguf(&gguf)?, Files::Gguf(gguf))
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
        let mut checkpoint = Self {
            path: path.to_owned(),
            expected: expected_tensors(&config).into_iter().collect(),
            config,
            unknown: Vec::new(),
            files,
        };
        checkpoint.check_expected()?;
        checkpoint.unknown = checkpoint.check_others()?;
        if !checkpoint.unknown.is_empty() {
            let (count, first) = (checkpoint.unknown.len(), &checkpoint.unknown[0]);
            tracing::warn!(
                "{}: {count} unknown tensors are ignored, the first `{first}`",
                path.display()
            );
        }
        Ok(checkpoint)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Tensors of the file that take no part in the computation and were ignored, by their names in the file.
    pub fn unknown_tensors(&self) -> &[String] {
        &self.unknown
    }

    /// Number of values in all tensors.
    pub fn parameter_count(&self) -> u64 {
        let count = |shape: &Vec<usize>| shape.iter().map(|axis| *axis as u64).product::<u64>();
        self.expected.values().map(count).sum()
    }

    /// A tensor as f32, with GGUF's permutation of rows undone.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] for a name that the configuration does not call for;
    /// otherwise none once the checkpoint is open, unless the file changes.
    pub fn tensor(&self, hf_name: &str) -> Result<LoadedTensor, WeightsError> {
        let missing = || self.missing(hf_name, "");
        let shape = self.expected.get(hf_name).ok_or_else(missing)?.clone();
        let data = match &self.files {
            Files::Gguf(gguf) => self.read_gguf(gguf, hf_name, &shape)?,
            Files::Safetensors {
                shards, shard_of, ..
            } => {
                let shard = shard_of.get(hf_name).and_then(|shard| shards.get(*shard));
                let (shard, tensor) = shard
                    .and_then(|shard| Some((shard, shard.tensor(hf_name)?)))
                    .ok_or_else(missing)?;
                shard.read(hf_name, tensor)?
            }
        };
        Ok(LoadedTensor { shape, data })
    }

    fn read_gguf(
        &self,
        gguf: &Gguf,
        hf_name: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>, WeightsError> {
        let tensor = names::to_gguf(hf_name)
            .and_then(|name| gguf.tensor(&name))
            .ok_or_else(|| self.missing(hf_name, ""))?;
        let bytes = gguf.tensor_bytes(tensor);
        let heads = names::permuted_heads(&self.config, hf_name);
        let head_dim = self.config.head_dim;
        // A bias is a column: its elements are permuted as a matrix's rows are.
        let row = match (shape, heads) {
            ([_, columns], _) => *columns,
            ([_], Some(_)) => 1,
            _ => shape.last().copied().unwrap_or(1),
        };
        let mut values = vec![0.0; shape.iter().product()];
        dequantize_rows(tensor.kind, bytes, row, &mut values, |row| match heads {
            Some(_) => names::gguf_row(row, head_dim),
            None => row,
        })
        .map_err(|error| {
            WeightsError::malformed(&self.path, format!("tensor `{hf_name}`: {error}"))
        })?;
        Ok(values)
    }

    /// Where the tokenizer is; a directory is not looked into.
    ///
    /// # Errors
    /// As [`GgufVocabulary::read`].
    pub fn tokenizer_source(&self) -> Result<TokenizerSource, WeightsError> {
        match &self.files {
            Files::Gguf(gguf) => Ok(TokenizerSource::Gguf(Box::new(GgufVocabulary::read(gguf)?))),
            Files::Safetensors { directory, .. } => {
                Ok(TokenizerSource::Directory(directory.clone()))
            }
        }
    }

    /// SHA-256 over configuration and weights, as hexadecimal digits: equal for equal models of one format, wherever they
    /// lie. Reads every byte; callers keep it.
    pub fn digest(&self) -> String {
        let parts: Vec<&[u8]> = match &self.files {
            Files::Gguf(gguf) => vec![gguf.file_bytes()],
            Files::Safetensors { shards, .. } => {
                shards.iter().map(SafetensorsFile::file_bytes).collect()
            }
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

    /// What the file calls a tensor.
    fn name_in_file(&self, hf_name: &str) -> String {
        match &self.files {
            Files::Gguf(_) => names::to_gguf(hf_name).unwrap_or_else(|| hf_name.to_owned()),
            Files::Safetensors { .. } => hf_name.to_owned(),
        }
    }

    fn missing(&self, hf_name: &str, hint: &str) -> WeightsError {
        WeightsError::MissingTensor {
            path: self.path.clone(),
            tensor: self.name_in_file(hf_name),
            hint: hint.to_owned(),
        }
    }

    /// Every tensor is there, in the right shape and in a type that can be read.
    fn check_expected(&self) -> Result<(), WeightsError> {
        for (name, expected) in expected_tensors(&self.config) {
            let found = match &self.files {
                Files::Gguf(gguf) => names::to_gguf(&name)
                    .and_then(|name| gguf.tensor(&name))
                    .map(|tensor| &tensor.shape),
                Files::Safetensors {
                    shards, shard_of, ..
                } => {
                    let shard = shard_of.get(&name).and_then(|shard| shards.get(*shard));
                    match shard.and_then(|shard| Some((shard, shard.tensor(&name)?))) {
                        Some((shard, tensor)) => {
                            shard.check_dtype(&name, tensor)?;
                            Some(&tensor.shape)
                        }
                        None => None,
                    }
                }
            };
            match found {
                None if name == HEAD => {
                    let hint = "; does the configuration lack `\"tie_word_embeddings\": true`?";
                    return Err(self.missing(&name, hint));
                }
                None => return Err(self.missing(&name, "")),
                Some(found) if *found != expected => {
                    return Err(WeightsError::Shape {
                        path: self.path.clone(),
                        tensor: self.name_in_file(&name),
                        found: found.clone(),
                        expected,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Looks at the tensors that the configuration does not call for and gives the names of those that do not matter.
    fn check_others(&self) -> Result<Vec<String>, WeightsError> {
        let mut unknown = Vec::new();
        match &self.files {
            Files::Gguf(gguf) => {
                for (name, _) in gguf.tensors() {
                    match names::to_hf(name) {
                        Some(hf) if self.expected.contains_key(&hf) => continue,
                        // The head repeats the embedding, else the model would be untied.
                        Some(hf) if hf == HEAD => continue,
                        Some(hf) => self.refuse_if_it_matters(name, &hf)?,
                        // Read with the configuration.
                        None if name == ROPE_DIVISORS => continue,
                        None => {}
                    }
                    unknown.push(name.to_owned());
                }
            }
            Files::Safetensors {
                shards, shard_of, ..
            } => {
                for (name, shard) in shard_of {
                    if self.expected.contains_key(name) || name.ends_with(".rotary_emb.inv_freq") {
                        continue;
                    }
                    if name == HEAD {
                        self.refuse_other_head(shards, *shard, shard_of)?;
                        continue;
                    }
                    self.refuse_if_it_matters(name, name)?;
                    unknown.push(name.clone());
                }
            }
        }
        unknown.sort_unstable();
        Ok(unknown)
    }

    /// A bias or a norm in a layer of the model changes what it computes. `name` is for the message.
    fn refuse_if_it_matters(&self, name: &str, hf_name: &str) -> Result<(), WeightsError> {
        let module = hf_name
            .strip_suffix(".bias")
            .or(hf_name.strip_suffix(".weight"));
        let module = module.unwrap_or(hf_name);
        let is_bias_of_expected = self.expected.contains_key(&format!("{module}.weight"));
        let is_head_norm = ["q_norm", "k_norm"].iter().any(|norm| {
            module.strip_suffix(norm).is_some_and(|attention| {
                self.expected
                    .contains_key(&format!("{attention}q_proj.weight"))
            })
        });
        if is_bias_of_expected || is_head_norm {
            return Err(WeightsError::UnexpectedTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                reason:
                    "the configuration has no such bias or norm: the result would silently be wrong"
                        .to_owned(),
            });
        }
        Ok(())
    }

    /// A tied model may carry a head, if it repeats the embedding.
    fn refuse_other_head(
        &self,
        shards: &[SafetensorsFile],
        head_shard: usize,
        shard_of: &HashMap<String, usize>,
    ) -> Result<(), WeightsError> {
        let bytes = |shard: Option<&usize>, name: &str| {
            let shard = shards.get(*shard?)?;
            Some(shard.tensor_bytes(shard.tensor(name)?))
        };
        if bytes(Some(&head_shard), HEAD) == bytes(shard_of.get(EMBEDDING), EMBEDDING) {
            return Ok(());
        }
        Err(WeightsError::UnexpectedTensor {
            path: self.path.clone(),
            tensor: HEAD.to_owned(),
            reason: format!(
                "the configuration ties the head to `{EMBEDDING}`, which differs; is `tie_word_embeddings` to be false?"
            ),
        })
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

/// A file whose tensors are all the model's.
fn one_file(directory: PathBuf, file: SafetensorsFile) -> Files {
    let shard_of = file
        .tensors()
        .map(|(name, _)| (name.to_owned(), 0))
        .collect();
    Files::Safetensors {
        directory,
        shards: vec![file],
        shard_of,
    }
}

/// `model.safetensors`, else the files of `model.safetensors.index.json`.
fn open_directory(directory: &Path) -> Result<Files, WeightsError> {
    let single = directory.join("model.safetensors");
    if single.exists() {
        return Ok(one_file(
            directory.to_owned(),
            SafetensorsFile::open(&single)?,
        ));
    }
    let index_path = directory.join("model.safetensors.index.json");
    if !index_path.exists() {
        let accepted = "model.safetensors, or model.safetensors.index.json and its files";
        return Err(WeightsError::unsupported(
            directory,
            "a directory",
            "without safetensors",
            accepted,
        ));
    }
    let index = read_json(&index_path, MAX_INDEX_BYTES)?;
    let fields = JsonFields::new(&index_path, &index)?;
    let expected = "an object that maps tensors to files of the directory";
    let map = fields.value("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| fields.wrong("weight_map", expected))?;

    let mut shards: Vec<SafetensorsFile> = Vec::new();
    let mut number_of: HashMap<&str, usize> = HashMap::new();
    let mut shard_of = HashMap::new();
    let mut files: Vec<&str> = Vec::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|file| is_plain_name(file));
        files.push(file.ok_or_else(|| {
            let found = map.get(tensor).map_or(String::new(), ToString::to_string);
            WeightsError::key(
                &index_path,
                tensor,
                found,
                "the name of a file in the directory",
            )
        })?);
    }
    let distinct: HashSet<&str> = files.iter().copied().collect();
    let mut distinct: Vec<&str> = distinct.into_iter().collect();
    distinct.sort_unstable();
    for file in distinct {
        number_of.insert(file, shards.len());
        shards.push(SafetensorsFile::open(&directory.join(file))?);
    }
    for (tensor, file) in map.keys().zip(files) {
        let shard = number_of.get(file).copied().unwrap_or_default();
        if shards
            .get(shard)
            .is_none_or(|shard| shard.tensor(tensor).is_none())
        {
            return Err(WeightsError::MissingTensor {
                path: directory.join(file),
                tensor: tensor.clone(),
                hint: ", though model.safetensors.index.json says it is there".to_owned(),
            });
        }
        shard_of.insert(tensor.clone(), shard);
    }
    Ok(Files::Safetensors {
        directory: directory.to_owned(),
        shards,
        shard_of,
    })
}

/// No path that leads elsewhere.
fn is_plain_name(file: &str) -> bool {
    !file.is_empty() && Path::new(file).file_name().is_some_and(|name| name == file)
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
                // As the converter does it, backwards: (heads, 16/2, 2, columns) to (heads, 2, 16/2, columns).
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
}
