//! The safetensors files of a Hugging Face directory as one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::error::WeightsError;
use super::gptq_directory::{StoredLayer, read_format};
use super::gptq_layout::{ARRAYS, GptqFormat};
use super::hf_config::read_json;
use super::json_fields::JsonFields;
use super::names::is_linear;
use super::safetensors::{SafetensorsFile, StoredTensor};

const INDEX: &str = "model.safetensors.index.json";
/// A larger index is none.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Open files and which of them holds a tensor.
#[derive(Debug)]
pub(crate) struct Shards {
    directory: PathBuf,
    files: Vec<SafetensorsFile>,
    file_of: HashMap<String, usize>,
    /// How linear layers are stored that have no `weight`.
    gptq: Option<GptqFormat>,
}

impl Shards {
    /// A file whose tensors are all the model's.
    pub(crate) fn from_file(directory: &Path, file: &Path) -> Result<Self, WeightsError> {
        let file = SafetensorsFile::open(file)?;
        Ok(Self {
            directory: directory.to_owned(),
            file_of: file
                .tensors()
                .map(|(name, _)| (name.to_owned(), 0))
                .collect(),
            files: vec![file],
            gptq: read_format(directory)?,
        })
    }

    /// `model.safetensors`, else the files of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// If there is neither, the index names a place outside the directory, or a tensor that is not
    /// where it says.
    pub(crate) fn open(directory: &Path) -> Result<Self, WeightsError> {
        let single = directory.join("model.safetensors");
        if single.exists() {
            return Self::from_file(directory, &single);
        }
        let index_path = directory.join(INDEX);
        if !index_path.exists() {
            let accepted = format!("model.safetensors, or {INDEX} and its files");
            return Err(WeightsError::unsupported(
                directory,
                "a directory",
                "without safetensors",
                accepted,
            ));
        }
        let index = read_json(&index_path, MAX_INDEX_BYTES)?;
        let fields = JsonFields::new(&index_path, &index)?;
        let map = fields.value("weight_map").and_then(|map| map.as_object());
        let map = map.ok_or_else(|| {
            fields.wrong(
                "weight_map",
                "an object that maps tensors to files of the directory",
            )
        })?;

        let mut tensors_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in map {
            let name = file
                .as_str()
                .filter(|name| is_plain_name(name))
                .ok_or_else(|| {
                    let expected = "the name of a file in the directory";
                    WeightsError::key(&index_path, tensor, file.to_string(), expected)
                })?;
            tensors_of.entry(name).or_default().push(tensor);
        }
        let mut files = Vec::with_capacity(tensors_of.len());
        let mut file_of = HashMap::with_capacity(map.len());
        for (number, (name, tensors)) in tensors_of.into_iter().enumerate() {
            let file = SafetensorsFile::open(&directory.join(name))?;
            for tensor in tensors {
                if file.tensor(tensor).is_none() {
                    return Err(WeightsError::MissingTensor {
                        path: file.path().to_owned(),
                        tensor: tensor.to_owned(),
                        hint: format!(", though {INDEX} says it is there"),
                    });
                }
                file_of.insert(tensor.to_owned(), number);
            }
            files.push(file);
        }
        Ok(Self {
            directory: directory.to_owned(),
            files,
            file_of,
            gptq: read_format(directory)?,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every tensor's name, in no particular order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// A tensor and the file that it is in.
    pub(crate) fn find(&self, name: &str) -> Option<(&SafetensorsFile, &StoredTensor)> {
        let file = self.files.get(*self.file_of.get(name)?)?;
        Some((file, file.tensor(name)?))
    }

    /// A matrix `[rows, columns]` that is stored in GPTQ's layout.
    pub(crate) fn gptq_layer<'a>(
        &'a self,
        hf_name: &'a str,
        shape: &[usize],
    ) -> Option<StoredLayer<'a>> {
        let &[rows, columns] = shape else { return None };
        let module = hf_name.strip_suffix(".weight")?;
        let is_stored = is_linear(hf_name) && !self.file_of.contains_key(hf_name);
        Some(StoredLayer {
            shards: self,
            format: self.gptq.as_ref().filter(|_| is_stored)?,
            module,
            shape: [rows, columns],
        })
    }

    /// The matrix that an array in GPTQ's layout is a part of.
    pub(crate) fn gptq_matrix(&self, name: &str) -> Option<String> {
        self.gptq.as_ref()?;
        let (module, array) = name.rsplit_once('.')?;
        ARRAYS.contains(&array).then(|| format!("{module}.weight"))
    }

    /// Whether both are there with the same bytes.
    pub(crate) fn are_equal(&self, first: &str, second: &str) -> bool {
        match (self.find(first), self.find(second)) {
            (Some((first_file, first)), Some((second_file, second))) => {
                first.shape == second.shape
                    && first_file.tensor_bytes(first) == second_file.tensor_bytes(second)
            }
            _ => false,
        }
    }

    /// The content of every file, in the order of the files' names.
    pub(crate) fn bytes(&self) -> Vec<&[u8]> {
        self.files.iter().map(SafetensorsFile::file_bytes).collect()
    }
}

/// No path that leads elsewhere.
fn is_plain_name(file: &str) -> bool {
    Path::new(file).file_name().is_some_and(|name| name == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_within_the_directory_are_followed() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for name in ["", "..", ".", "/etc/passwd", "../a", "a/b", "a/"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
