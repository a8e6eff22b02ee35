//! `quantization.json` and `quantization.safetensors` read back.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;

use super::error::WeightsError;
use super::hf_config::read_json;
use super::json_fields::JsonFields;
use super::quantization::{CODES_FILE, CodesEntry, FORMAT, LayerEntry, QUANTIZATION_FILE, RangeOf};
use super::safetensors::{SafetensorsFile, StoredTensor};
use crate::linear::ActivationQuantization;
use crate::quant::integer::IntegerMatrix;

/// A larger description is none.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// How a model's linear layers were quantised; codes are read on demand.
#[derive(Debug)]
pub struct Quantization {
    method: Value,
    layers: BTreeMap<String, Layer>,
    file: SafetensorsFile,
}

#[derive(Debug)]
struct Layer {
    shape: [usize; 2],
    codes: CodesEntry,
    activations: Option<ActivationQuantization>,
}

impl Quantization {
    /// Whether a directory has one, or half of one.
    pub(super) fn is_at(directory: &Path) -> bool {
        [QUANTIZATION_FILE, CODES_FILE]
            .iter()
            .any(|file| directory.join(file).exists())
    }

    /// Reads all but the codes; `expected` are the shapes of the model's tensors.
    ///
    /// # Errors
    /// When a file is missing or malformed, or speaks of another model's layers.
    pub(super) fn open(
        directory: &Path,
        expected: &HashMap<String, Vec<usize>>,
    ) -> Result<Self, WeightsError> {
        let path = directory.join(QUANTIZATION_FILE);
        let json = read_json(&path, MAX_JSON_BYTES)?;
        let fields = JsonFields::new(&path, &json)?;
        if fields.required_length("format")? as u64 != FORMAT {
            return Err(fields.wrong("format", &FORMAT.to_string()));
        }
        if let Some(unknown) = fields.other_than(&["format", "method", "layers"]) {
            let problem = format!("unknown key `{unknown}`, there are format, method and layers");
            return Err(WeightsError::malformed(&path, problem));
        }
        let method = fields.value("method").cloned();
        let method = method.ok_or_else(|| fields.wrong("method", "what was done"))?;
        let entries = fields.value("layers").and_then(Value::as_object);
        let entries = entries.ok_or_else(|| fields.wrong("layers", "an object of modules"))?;
        let file = SafetensorsFile::open(&directory.join(CODES_FILE))?;
        let mut layers = BTreeMap::new();
        for (module, entry) in entries {
            let key = format!("layers.{module}");
            let is_linear = module.starts_with("model.layers.");
            let shape = expected.get(&format!("{module}.weight"));
            let Some(&[rows, columns]) = shape.filter(|_| is_linear).map(Vec::as_slice) else {
                let expected = "a linear layer of the model's blocks";
                return Err(WeightsError::key(&path, &key, "there", expected));
            };
            let entry: LayerEntry = serde_json::from_value(entry.clone())
                .map_err(|error| WeightsError::malformed(&path, format!("key `{key}`: {error}")))?;
            let reader = Reader {
                file: &file,
                module,
                shape: [rows, columns],
            };
            reader.check_codes(&path, &key, &entry.codes)?;
            let activations = reader.activations(&path, &key, &entry)?;
            let layer = Layer {
                shape: [rows, columns],
                codes: entry.codes,
                activations,
            };
            layers.insert(module.clone(), layer);
        }
        let is_listed = |name: &&str| {
            name.rsplit_once('.')
                .is_some_and(|(module, _)| layers.contains_key(module))
        };
        if let Some(stray) = file
            .tensors()
            .map(|(name, _)| name)
            .find(|name| !is_listed(name))
        {
            let problem = format!("tensor `{stray}` is of no layer that {QUANTIZATION_FILE} lists");
            return Err(WeightsError::malformed(file.path(), problem));
        }
        Ok(Self {
            method,
            layers,
            file,
        })
    }

    /// What was done, in the words of the recipe.
    pub fn method(&self) -> &Value {
        &self.method
    }

    /// How the inputs of a module are rounded.
    pub fn activations(&self, module: &str) -> Option<&ActivationQuantization> {
        self.layers.get(module)?.activations.as_ref()
    }

    /// Whether the inputs of any layer are rounded.
    pub fn rounds_activations(&self) -> bool {
        (self.layers.values()).any(|layer| layer.activations.is_some())
    }

    /// A module's matrix as integers; `None` where it is not held so, or not in integers alone.
    ///
    /// # Errors
    /// [`WeightsError::Malformed`] for codes, zeros or groups that cannot be.
    pub fn integers(&self, module: &str) -> Result<Option<IntegerMatrix>, WeightsError> {
        let Some((module, layer)) = self.layers.get_key_value(module) else {
            return Ok(None);
        };
        let CodesEntry::Integer {
            bits,
            group_size,
            reordered,
        } = layer.codes
        else {
            return Ok(None);
        };
        let mixed = |found: &ActivationQuantization| !found.outliers.is_empty();
        if layer.activations.as_ref().is_some_and(mixed) {
            return Ok(None);
        }
        let [rows, columns] = layer.shape;
        let reader = Reader {
            file: &self.file,
            module,
            shape: layer.shape,
        };
        let groups = columns / group_size;
        let last = u8::MAX >> (8 - bits);
        let bytes = |name: &str, shape: [usize; 2]| {
            let bytes = reader.bytes(name, "U8", &shape)?.to_vec();
            match bytes.iter().find(|code| **code > last) {
                Some(code) => Err(reader.wrong(name, format!("{code} is no code of {bits} bits"))),
                None => Ok(bytes),
            }
        };
        let (name, scales) = reader.tensor("scales", &["F16", "F32"], &[rows, groups])?;
        let group_of_column = match reordered {
            true => Some(reader.indices("group_of_column", columns, groups)?),
            false => None,
        };
        Ok(Some(IntegerMatrix {
            rows,
            columns,
            bits,
            group_size,
            codes: bytes("codes", [rows, columns])?,
            scales: self.file.read(&name, scales)?,
            zeros: bytes("zeros", [rows, groups])?,
            group_of_column,
        }))
    }
}

/// The tensors of one module.
struct Reader<'a> {
    file: &'a SafetensorsFile,
    module: &'a str,
    shape: [usize; 2],
}

impl Reader<'_> {
    fn tensor(
        &self,
        name: &str,
        dtypes: &[&str],
        shape: &[usize],
    ) -> Result<(String, &StoredTensor), WeightsError> {
        let path = self.file.path();
        let name = format!("{}.{name}", self.module);
        let Some(tensor) = self.file.tensor(&name) else {
            return Err(WeightsError::MissingTensor {
                path: path.to_owned(),
                tensor: name,
                hint: format!(": {QUANTIZATION_FILE} speaks of it"),
            });
        };
        if !dtypes.contains(&tensor.dtype.as_str()) {
            let what = format!("tensor `{name}`: type");
            let accepted = dtypes.join(", ");
            return Err(WeightsError::unsupported(
                path,
                what,
                &tensor.dtype,
                accepted,
            ));
        }
        if tensor.shape != shape {
            return Err(WeightsError::Shape {
                path: path.to_owned(),
                tensor: name,
                found: tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        Ok((name, tensor))
    }

    fn bytes(&self, name: &str, dtype: &str, shape: &[usize]) -> Result<&[u8], WeightsError> {
        let (_, tensor) = self.tensor(name, &[dtype], shape)?;
        Ok(self.file.tensor_bytes(tensor))
    }

    /// Whole numbers below `limit`.
    fn indices(&self, name: &str, count: usize, limit: usize) -> Result<Vec<u32>, WeightsError> {
        let bytes = self.bytes(name, "I32", &[count])?;
        let read = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|four| u32::from_le_bytes(*four));
        let numbers: Vec<u32> = read.collect();
        match numbers.iter().find(|number| **number as usize >= limit) {
            Some(number) => Err(self.wrong(name, format!("{number} is not below {limit}"))),
            None => Ok(numbers),
        }
    }

    fn wrong(&self, name: &str, problem: String) -> WeightsError {
        let problem = format!("tensor `{}.{name}`: {problem}", self.module);
        WeightsError::malformed(self.file.path(), problem)
    }

    fn check_codes(&self, path: &Path, key: &str, codes: &CodesEntry) -> Result<(), WeightsError> {
        let [rows, columns] = self.shape;
        match *codes {
            CodesEntry::Integer {
                bits,
                group_size,
                reordered,
            } => {
                let wrong = |name: &str, found: usize, expected: String| {
                    let key = format!("{key}.codes.{name}");
                    Err(WeightsError::key(path, &key, found.to_string(), expected))
                };
                if !(2..=8).contains(&bits) {
                    return wrong("bits", usize::from(bits), "2 to 8".into());
                }
                if group_size == 0 || !columns.is_multiple_of(group_size) {
                    let expected = format!("a divisor of the row's {columns} columns");
                    return wrong("group_size", group_size, expected);
                }
                let groups = [rows, columns / group_size];
                self.tensor("codes", &["U8"], &self.shape)?;
                self.tensor("scales", &["F16", "F32"], &groups)?;
                self.tensor("zeros", &["U8"], &groups)?;
                if reordered {
                    self.tensor("group_of_column", &["I32"], &[columns])?;
                }
                Ok(())
            }
            CodesEntry::Nf4 {} => self
                .tensor("codes", &["U8"], &[rows * columns / 2])
                .map(|_| ()),
        }
    }

    fn activations(
        &self,
        path: &Path,
        key: &str,
        entry: &LayerEntry,
    ) -> Result<Option<ActivationQuantization>, WeightsError> {
        let Some(found) = &entry.activations else {
            return Ok(None);
        };
        let [rows, columns] = self.shape;
        let range = match found.range {
            RangeOf::Token => None,
            RangeOf::Calibration => {
                let (name, tensor) = self.tensor("activation_range", &["F32"], &[2])?;
                let ends = self.file.read(&name, tensor)?;
                let is_range = ends[0].is_finite() && ends[1].is_finite() && ends[0] <= ends[1];
                if !is_range {
                    let problem = format!("{ends:?} is no range of values");
                    return Err(self.wrong("activation_range", problem));
                }
                Some([ends[0], ends[1]])
            }
        };
        let outliers = match found.outliers {
            0 => Vec::new(),
            count if count > columns => {
                let key = format!("{key}.activations.outliers");
                let expected = format!("at most the row's {columns} columns");
                return Err(WeightsError::key(path, &key, count.to_string(), expected));
            }
            count => {
                self.tensor("outlier_weights", &["F16"], &[rows, count])?;
                let outliers = self.indices("outlier_columns", count, columns)?;
                if !outliers.is_sorted_by(|a, b| a < b) {
                    let problem = "columns are listed in rising order, each once".to_owned();
                    return Err(self.wrong("outlier_columns", problem));
                }
                outliers
            }
        };
        Ok(Some(ActivationQuantization {
            scheme: found.scheme,
            range,
            outliers,
        }))
    }
}
