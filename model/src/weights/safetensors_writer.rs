//! Safetensors files written tensor by tensor, in any order, in bounded memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::dtype::WeightDtype;
use super::error::WeightsError;

/// Values that one thread encodes at a time.
const VALUES_PER_TASK: usize = 1 << 16;

/// A file whose header is written; tensors follow at their places.
pub struct SafetensorsWriter {
    path: PathBuf,
    file: File,
    dtype: WeightDtype,
    /// What is still to be written: shape and place in the file.
    missing: HashMap<String, (Vec<usize>, u64)>,
}

impl SafetensorsWriter {
    /// Creates the file for exactly these tensors, all of one type, laid out in this order.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; [`WeightsError::Unwritable`] if a name appears twice or the sizes
    /// overflow.
    pub fn create(
        path: &Path,
        dtype: WeightDtype,
        tensors: &[(String, Vec<usize>)],
    ) -> Result<Self, WeightsError> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut missing = HashMap::new();
        let mut position = 0_u64;
        for (name, shape) in tensors {
            let end = tensor_bytes(shape, dtype).and_then(|bytes| position.checked_add(bytes));
            let end = end.ok_or_else(|| {
                WeightsError::unwritable(
                    path,
                    format!("tensor `{name}`: shape {shape:?} overflows"),
                )
            })?;
            let info = json!({
                "dtype": dtype.safetensors_name(), "shape": shape, "data_offsets": [position, end],
            });
            header.insert(name.clone(), info);
            if missing
                .insert(name.clone(), (shape.clone(), position))
                .is_some()
            {
                return Err(WeightsError::unwritable(
                    path,
                    format!("tensor `{name}` appears twice"),
                ));
            }
            position = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The data begin at a multiple of eight, for readers that map the file.
        header.resize(header.len().next_multiple_of(8), b' ');
        let data_start = 8 + header.len() as u64;
        for (_, place) in missing.values_mut() {
            *place += data_start;
        }

        let io = |error| WeightsError::io(path)(error);
        let mut file = File::create(path).map_err(io)?;
        file.write_all(&(header.len() as u64).to_le_bytes())
            .map_err(io)?;
        file.write_all(&header).map_err(io)?;
        file.set_len(data_start + position).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            dtype,
            missing,
        })
    }

    /// Writes a tensor, row-major, rounded to nearest, ties to even.
    ///
    /// # Errors
    /// [`WeightsError::Unwritable`] if it is not one of the file's, was written already or has a
    /// value beyond the type's range; [`WeightsError::Shape`]; [`WeightsError::Io`].
    pub fn write(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<(), WeightsError> {
        let Some((expected, place)) = self.missing.remove(name) else {
            let problem = format!("tensor `{name}` has no place in it or was written before");
            return Err(WeightsError::unwritable(&self.path, problem));
        };
        if shape != expected {
            return Err(WeightsError::Shape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: shape.to_vec(),
                expected,
            });
        }
        if shape.iter().product::<usize>() != values.len() {
            let problem = format!(
                "tensor `{name}`: {} values for shape {shape:?}",
                values.len()
            );
            return Err(WeightsError::unwritable(&self.path, problem));
        }
        let chunks: Result<Vec<Vec<u8>>, _> = values
            .par_chunks(VALUES_PER_TASK)
            .enumerate()
            .map(|(number, values)| {
                let mut bytes = Vec::new();
                self.dtype.encode(values, &mut bytes).map_err(|out| {
                    let index = number * VALUES_PER_TASK + out.index;
                    let problem = format!(
                        "tensor `{name}`: value {index} is {}, beyond the range of {}; bf16 or f32 reach further",
                        out.value,
                        self.dtype.torch_name()
                    );
                    WeightsError::unwritable(&self.path, problem)
                })?;
                Ok(bytes)
            })
            .collect();
        let io = |error| WeightsError::io(&self.path)(error);
        self.file.seek(SeekFrom::Start(place)).map_err(io)?;
        for chunk in chunks? {
            self.file.write_all(&chunk).map_err(io)?;
        }
        Ok(())
    }

    /// Ends the file and waits until it is on the disk.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] if one was not written; [`WeightsError::Io`].
    pub fn finish(self) -> Result<(), WeightsError> {
        if let Some(tensor) = self.missing.into_keys().min() {
            return Err(WeightsError::MissingTensor {
                path: self.path,
                tensor,
                hint: ": it was never written".to_owned(),
            });
        }
        self.file.sync_all().map_err(WeightsError::io(&self.path))
    }
}

/// Bytes of a tensor, unless they overflow.
pub(crate) fn tensor_bytes(shape: &[usize], dtype: WeightDtype) -> Option<u64> {
    shape.iter().try_fold(dtype.size() as u64, |bytes, axis| {
        bytes.checked_mul(*axis as u64)
    })
}
