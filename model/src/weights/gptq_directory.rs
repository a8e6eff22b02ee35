//! A model in GPTQ's layout: layers read from its files, and a directory written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, View};

use super::dtype::WeightDtype;
use super::error::WeightsError;
use super::gptq_layout::{ARRAYS, GptqArrays, GptqFormat};
use super::hf_config::config_json;
use super::hf_config_writer::{to_generation_json, to_hf_json};
use super::hf_directory::NamedTensor;
use super::json_fields::JsonFields;
use super::safetensors_header::StoredTensor;
use super::shards::Shards;
use super::staged_directory::StagedDirectory;
use crate::config::DecoderConfig;
use crate::quant::integer::IntegerMatrix;

/// The format of a directory's layers; `None` when they are stored as any others.
///
/// # Errors
/// As [`GptqFormat::read`].
pub(super) fn read_format(directory: &Path) -> Result<Option<GptqFormat>, WeightsError> {
    let (path, json) = config_json(directory)?;
    GptqFormat::read(&JsonFields::new(&path, &json)?)
}

/// A layer among a model's files.
pub(super) struct StoredLayer<'a> {
    pub shards: &'a Shards,
    pub format: &'a GptqFormat,
    pub module: &'a str,
    /// `[out, in]`
    pub shape: [usize; 2],
}

impl StoredLayer<'_> {
    /// Checks types and shapes of all arrays.
    pub(super) fn check(&self) -> Result<(), WeightsError> {
        let (file, _) = self.find("qweight")?;
        let shapes = self.format.shapes(self.shape).map_err(|problem| {
            WeightsError::malformed(file, format!("layer `{}`: {problem}", self.module))
        })?;
        for (name, expected) in ARRAYS.into_iter().zip(shapes) {
            let (path, tensor) = self.find(name)?;
            let is_integer = name != "scales";
            if is_integer && tensor.dtype != "I32" {
                let what = format!("tensor `{}`: type", self.tensor(name));
                return Err(WeightsError::unsupported(path, what, &tensor.dtype, "I32"));
            }
            if tensor.shape != expected {
                return Err(WeightsError::Shape {
                    path: path.to_owned(),
                    tensor: self.tensor(name),
                    found: tensor.shape.clone(),
                    expected,
                });
            }
        }
        let scales = self.tensor("scales");
        match self.shards.find(&scales) {
            Some((file, tensor)) => file.check_dtype(&scales, tensor),
            None => Ok(()),
        }
    }

    /// # Errors
    /// [`WeightsError::Malformed`] for groups and scales that cannot be.
    pub(super) fn read(&self) -> Result<IntegerMatrix, WeightsError> {
        let scales = self.tensor("scales");
        let (path, _) = self.find("scales")?;
        let scales = match self.shards.find(&scales) {
            Some((file, tensor)) => file.read(&scales, tensor)?,
            None => Vec::new(),
        };
        let arrays = GptqArrays {
            qweight: self.words("qweight")?,
            qzeros: self.words("qzeros")?,
            scales,
            g_idx: self.words("g_idx")?,
        };
        arrays.unpack(self.shape, self.format).map_err(|problem| {
            WeightsError::malformed(path, format!("layer `{}`: {problem}", self.module))
        })
    }

    fn tensor(&self, name: &str) -> String {
        format!("{}.{name}", self.module)
    }

    fn find(&self, name: &str) -> Result<(&Path, &StoredTensor), WeightsError> {
        let found = self.shards.find(&self.tensor(name));
        let found = found.map(|(file, tensor)| (file.path(), tensor));
        found.ok_or_else(|| WeightsError::MissingTensor {
            path: self.shards.directory().to_owned(),
            tensor: self.tensor(name),
            hint: "; `quantization_config` says that the model is in GPTQ's layout".to_owned(),
        })
    }

    fn words(&self, name: &str) -> Result<Vec<u32>, WeightsError> {
        self.find(name)?;
        let found = self.shards.find(&self.tensor(name));
        let bytes = found.map_or(&[][..], |(file, tensor)| file.tensor_bytes(tensor));
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|word| u32::from_le_bytes(*word)).collect())
    }
}

/// Writes the model into a directory that the caller commits: `layers` in GPTQ's layout under the names of their modules,
/// `others` in `dtype`.
///
/// # Errors
/// The first of `others`; [`WeightsError::Unwritable`] for layers that the layout cannot hold; [`WeightsError::Io`].
pub fn write_gptq_files<E: From<WeightsError>>(
    staged: &StagedDirectory,
    config: &DecoderConfig,
    dtype: WeightDtype,
    layers: &BTreeMap<String, IntegerMatrix>,
    others: impl IntoIterator<Item = Result<NamedTensor, E>>,
) -> Result<(), E> {
    let path = staged.path().join("config.json");
    let unwritable = |problem: String| WeightsError::unwritable(&path, problem);
    let named = layers
        .iter()
        .map(|(module, matrix)| (module.as_str(), matrix));
    let format = GptqFormat::of(named).map_err(unwritable)?;
    let mut json = to_hf_json(&path, config, dtype)?;
    json["quantization_config"] = format.to_json();
    staged.write("config.json", format!("{json:#}\n").as_bytes())?;
    let json = to_generation_json(config);
    staged.write("generation_config.json", format!("{json:#}\n").as_bytes())?;

    let mut tensors = Vec::new();
    for (module, matrix) in layers {
        let shape = [matrix.rows, matrix.columns];
        let shapes = format.shapes(shape).map_err(unwritable)?;
        let arrays = GptqArrays::pack(matrix, &format)
            .map_err(|problem| unwritable(format!("layer `{module}`: {problem}")))?;
        let [qweight, qzeros, scales, g_idx] = shapes;
        let mut add = |name: &str, array: Array| tensors.push((format!("{module}.{name}"), array));
        add("qweight", Array::words(qweight, &arrays.qweight));
        add("qzeros", Array::words(qzeros, &arrays.qzeros));
        let halves = Array::floats(scales, &arrays.scales, WeightDtype::F16);
        add("scales", halves.map_err(unwritable)?);
        add("g_idx", Array::words(g_idx, &arrays.g_idx));
    }
    for tensor in others {
        let (name, shape, values) = tensor?;
        let array = Array::floats(shape, &values, dtype);
        let array = array.map_err(|problem| unwritable(format!("tensor `{name}`: {problem}")))?;
        tensors.push((name, array));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(staged.write_safetensors("model.safetensors", tensors, Some(metadata))?)
}

/// An array as it is written.
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    fn words(shape: Vec<usize>, words: &[u32]) -> Self {
        Self {
            dtype: Dtype::I32,
            shape,
            bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }

    fn floats(shape: Vec<usize>, values: &[f32], dtype: WeightDtype) -> Result<Self, String> {
        let mut bytes = Vec::new();
        dtype.encode(values, &mut bytes).map_err(|out| {
            let (index, value) = (out.index, out.value);
            format!(
                "value {index} is {value}, beyond the range of {}",
                dtype.torch_name()
            )
        })?;
        Ok(Self {
            dtype: match dtype {
                WeightDtype::F32 => Dtype::F32,
                WeightDtype::F16 => Dtype::F16,
                WeightDtype::Bf16 => Dtype::BF16,
            },
            shape,
            bytes,
        })
    }
}

impl View for Array {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::config::Architecture;
    use crate::quant::integer::IntegerConfig;
    use crate::weights::checkpoint::Checkpoint;
    use crate::weights::names::is_linear;
    use crate::weights::test_files::{tiny_config, tiny_tensors};

    struct Written {
        place: TempDir,
        layers: BTreeMap<String, IntegerMatrix>,
    }

    fn write(bits: u8) -> Written {
        let mut config = tiny_config(Architecture::Qwen2);
        // Zeros of 3 bits fill words in rows of 32.
        config.num_key_value_heads = 2;
        let integer = IntegerConfig {
            bits,
            group_size: Some(32),
            symmetric: bits == 2,
        };
        let (linear, others): (Vec<_>, Vec<_>) = (tiny_tensors(&config).into_iter())
            .partition(|(name, shape, _)| is_linear(name) && shape.len() == 2);
        let layers = linear.into_iter().map(|(name, shape, values)| {
            let shape = [shape[0], shape[1]];
            let matrix = IntegerMatrix::round_to_nearest(&values, shape, &integer).unwrap();
            (name.strip_suffix(".weight").unwrap().to_owned(), matrix)
        });
        let layers: BTreeMap<_, _> = layers.collect();
        let place = tempfile::tempdir().unwrap();
        let staged = StagedDirectory::new(&place.path().join("model")).unwrap();
        let others = others.into_iter().map(Ok::<_, WeightsError>);
        write_gptq_files(&staged, &config, WeightDtype::F32, &layers, others).unwrap();
        staged.commit().unwrap();
        Written { place, layers }
    }

    impl Written {
        fn open(&self) -> Result<Checkpoint, WeightsError> {
            Checkpoint::open(&self.place.path().join("model"))
        }

        fn change_config(&self, change: impl FnOnce(&mut Value)) {
            let path = self.place.path().join("model/config.json");
            let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            change(&mut json);
            fs::write(&path, json.to_string()).unwrap();
        }

        /// Changes the file's arrays: name, type, shape, bytes.
        fn change(&self, mut change: impl FnMut(&str, &mut Array) -> bool) {
            let path = self.place.path().join("model/model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let arrays = file.iter().map(|(name, view)| {
                let array = Array {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                };
                (name.to_owned(), array)
            });
            let mut arrays: Vec<_> = arrays.collect();
            arrays.retain_mut(|(name, array)| change(name, array));
            safetensors::serialize_to_file(arrays, None, &path).unwrap();
        }
    }

    #[test]
    fn a_directory_is_read_as_the_values_that_its_integers_stand_for() {
        for bits in [2, 3, 4, 8] {
            let written = write(bits);
            let checkpoint = written.open().unwrap();
            assert!(checkpoint.unknown_tensors().is_empty());
            for (module, matrix) in &written.layers {
                let name = format!("{module}.weight");
                let tensor = checkpoint.tensor(&name).unwrap();
                assert_eq!(tensor.shape, [matrix.rows, matrix.columns]);
                assert_eq!(tensor.data, matrix.dequantize(), "{name}");
                assert!(checkpoint.packed(&name).unwrap().is_none());
            }
            for (name, shape, values) in tiny_tensors(checkpoint.config()) {
                if shape.len() == 1 || !is_linear(&name) {
                    assert_eq!(checkpoint.tensor(&name).unwrap().data, values);
                }
            }
        }
    }

    const MODULE: &str = "model.layers.1.mlp.down_proj";

    #[test]
    fn broken_files_are_errors_that_name_the_tensor() {
        for name in ARRAYS {
            let written = write(4);
            let wanted = format!("{MODULE}.{name}");
            written.change(|found, _| found != wanted);
            let error = written.open().unwrap_err().to_string();
            assert!(error.contains(&format!("`{wanted}` is missing")), "{error}");

            let written = write(4);
            written.change(|found, array| {
                if found == wanted {
                    array.shape.push(1);
                }
                true
            });
            let error = written.open().unwrap_err().to_string();
            assert!(error.contains(&format!("`{wanted}` has shape")), "{error}");

            let written = write(4);
            written.change(|found, array| {
                if found == wanted {
                    array.dtype = match array.dtype {
                        Dtype::I32 => Dtype::F32,
                        _ => Dtype::I16,
                    };
                }
                true
            });
            let error = written.open().unwrap_err().to_string();
            assert!(error.contains(&format!("`{wanted}`: type")), "{error}");
        }
    }

    #[test]
    fn groups_that_do_not_exist_are_errors() {
        for group in [2_i32, -1] {
            let written = write(4);
            written.change(|found, array| {
                if found == format!("{MODULE}.g_idx") {
                    array.bytes[8..12].copy_from_slice(&group.to_le_bytes());
                }
                true
            });
            let checkpoint = written.open().unwrap();
            let error = checkpoint.tensor(&format!("{MODULE}.weight")).unwrap_err();
            let error = error.to_string();
            let says = format!("`{MODULE}`: column 2 is of group {group}");
            assert!(error.contains(&says), "{error}");
        }
    }

    #[test]
    fn settings_that_are_not_the_files_are_errors() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 6] = [
            (
                |config| config["bits"] = 8.into(),
                "q_proj.qweight` has shape",
            ),
            (
                |config| config["bits"] = 5.into(),
                "key `bits` is 5, expected 2, 3, 4 or 8",
            ),
            (
                |config| config["group_size"] = 16.into(),
                "q_proj.qzeros` has shape",
            ),
            (
                |config| config["group_size"] = 0.into(),
                "key `group_size` is 0",
            ),
            (
                |config| config["quant_method"] = "awq".into(),
                "awq is not supported",
            ),
            (
                |config| config["checkpoint_format"] = "marlin".into(),
                "checkpoint_format",
            ),
        ];
        for (change, says) in cases {
            let written = write(4);
            written.change_config(|json| change(&mut json["quantization_config"]));
            let error = written.open().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
