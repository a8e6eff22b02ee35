//! Checkpoints of a running stage: directories written aside and renamed, so that each is whole.
//!
//! `checkpoints/step-00000024/` holds `weights.safetensors` (what is trained, by parameter name), `optimizer.safetensors`
//! (`first.` and `second.` before the name) and `state.json`; where the student writes, `on_policy.json` beside them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData};
use memmap2::Mmap;
use model::ops::host::HostTensor;
use model::phase;
use model::weights::error::WeightsError;
use model::weights::staged_directory::StagedDirectory;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::objective::Trainee;
use crate::on_policy::student::OnPolicyState;
use crate::optim::adamw::{AdamW, Moments};

/// Raised when checkpoints of one version cannot be continued by another.
const FORMAT_VERSION: u32 = 2;

/// Where a run stands; everything beside the tensors that its continuation needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub format_version: u32,
    /// Optimizer steps done, which is also the number of the next batch.
    pub step: u64,
    /// Digest of the stage: its settings, its models and its data.
    pub stage_digest: String,
    /// The last held-out loss, nats a token.
    #[serde(with = "crate::exact::option")]
    pub heldout_nll: Option<f64>,
}

#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] WeightsError),
    #[error(
        "{path}: {what}\nhint: remove {checkpoint} to go on from the checkpoint before it",
        path = path.display(), checkpoint = checkpoint.display()
    )]
    Broken {
        path: PathBuf,
        what: String,
        checkpoint: PathBuf,
    },
    #[error(
        "{path} belongs to another recipe: its stage has digest {found}, this one {expected}\nhint: run with another --out, or remove the directory", path = path.display()
    )]
    OtherStage {
        path: PathBuf,
        found: String,
        expected: String,
    },
}

/// Where they lie in the directory of a stage.
const DIRECTORY: &str = "checkpoints";

/// The state of a student that writes, in the directory of a checkpoint.
const ON_POLICY: &str = "on_policy.json";

/// The checkpoints of one stage.
pub struct Checkpoints {
    directory: PathBuf,
    stage_digest: String,
    keep: usize,
}

/// Removes the checkpoints of a stage whose result is safe: they are three times its size.
///
/// # Errors
/// What the file system says.
pub fn remove_checkpoints(stage: &Path) -> io::Result<()> {
    match fs::remove_dir_all(stage.join(DIRECTORY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Checkpoints {
    /// Those that lie in the directory of a stage.
    pub fn new(stage: &Path, stage_digest: String, keep: usize) -> Self {
        Self {
            directory: stage.join(DIRECTORY),
            stage_digest,
            keep: keep.max(1),
        }
    }

    /// The newest checkpoint, loaded into trainee and optimizer; `None` when there is none.
    ///
    /// # Errors
    /// When it belongs to another stage, or does not hold what the trainee needs.
    pub fn resume(
        &self,
        trainee: &mut Trainee,
        optimizer: &mut AdamW,
    ) -> Result<Option<State>, CheckpointError> {
        self.remove_leftovers()?;
        let Some((step, path)) = self.list()?.pop() else {
            return Ok(None);
        };
        let state = self.state(&path)?;
        if state.step != step {
            let what = format!("it says step {}", state.step);
            return Err(broken(&path.join("state.json"), what));
        }
        let weights = Arrays::open(&path.join("weights.safetensors"))?;
        let moments = Arrays::open(&path.join("optimizer.safetensors"))?;
        optimizer.steps = step;
        optimizer.moments.clear();
        for parameter in trainee.parameters_mut() {
            // What is frozen is read from where it came from; the stage's digest vouches for it.
            if !parameter.trainable {
                continue;
            }
            parameter.value = weights.tensor(&parameter.name, &parameter.value)?;
            let moments = Moments {
                first: moments.tensor(&format!("first.{}", parameter.name), &parameter.value)?,
                second: moments.tensor(&format!("second.{}", parameter.name), &parameter.value)?,
            };
            optimizer.moments.insert(parameter.name.clone(), moments);
        }
        Ok(Some(state))
    }

    /// What the checkpoint of a step says of a student that writes.
    ///
    /// # Errors
    /// When it says nothing, or something else.
    pub fn on_policy(&self, step: u64) -> Result<OnPolicyState, CheckpointError> {
        let path = self.directory.join(format!("step-{step:08}"));
        let file = path.join(ON_POLICY);
        let text = fs::read_to_string(&file).map_err(io_error(&file))?;
        serde_json::from_str(&text).map_err(|error| broken(&file, error.to_string()))
    }

    /// Writes a checkpoint and removes those that are neither among the newest nor the best.
    ///
    /// # Errors
    /// What the file system says; the checkpoints before are untouched.
    pub fn save(
        &self,
        trainee: &Trainee,
        optimizer: &AdamW,
        step: u64,
        heldout_nll: Option<f64>,
        on_policy: Option<&OnPolicyState>,
    ) -> Result<(), CheckpointError> {
        let _phase = phase!("checkpoint");
        let path = self.directory.join(format!("step-{step:08}"));
        if path.exists() {
            return Ok(());
        }
        let staged = StagedDirectory::new(&path)?;
        let trained = trainee.parameters().filter(|p| p.trainable);
        let weights = trained.map(|p| (p.name.clone(), &p.value));
        write_arrays(&staged.path().join("weights.safetensors"), weights)?;
        let moments = optimizer.moments.iter().flat_map(|(name, moments)| {
            [
                (format!("first.{name}"), &moments.first),
                (format!("second.{name}"), &moments.second),
            ]
        });
        write_arrays(&staged.path().join("optimizer.safetensors"), moments)?;
        let state = State {
            format_version: FORMAT_VERSION,
            step,
            stage_digest: self.stage_digest.clone(),
            heldout_nll,
        };
        let json = serde_json::to_vec_pretty(&state)
            .map_err(|error| io_error(&path)(io::Error::other(error)))?;
        staged.write("state.json", &json)?;
        if let Some(on_policy) = on_policy {
            let json = serde_json::to_vec(on_policy)
                .map_err(|error| io_error(&path)(io::Error::other(error)))?;
            staged.write(ON_POLICY, &json)?;
        }
        staged.commit()?;
        self.remove_old()
    }

    /// Steps and paths, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&self.directory)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error(&self.directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let step = name.and_then(|name| name.strip_prefix("step-")?.parse().ok());
            if let Some(step) = step {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// What a kill left half written or half removed has a name that begins with a dot.
    fn remove_leftovers(&self) -> Result<(), CheckpointError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error(&self.directory)(error)),
        };
        for entry in entries {
            let path = entry.map_err(io_error(&self.directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with('.')) && path.is_dir() {
                fs::remove_dir_all(&path).map_err(io_error(&path))?;
            }
        }
        Ok(())
    }

    fn state(&self, path: &Path) -> Result<State, CheckpointError> {
        let file = path.join("state.json");
        let text = fs::read_to_string(&file).map_err(io_error(&file))?;
        let state: State =
            serde_json::from_str(&text).map_err(|error| broken(&file, error.to_string()))?;
        if state.format_version != FORMAT_VERSION {
            let found = state.format_version;
            let what = format!("format version {found}, expected {FORMAT_VERSION}");
            return Err(broken(&file, what));
        }
        if state.stage_digest != self.stage_digest {
            return Err(CheckpointError::OtherStage {
                path: path.to_path_buf(),
                found: state.stage_digest,
                expected: self.stage_digest.clone(),
            });
        }
        Ok(state)
    }

    fn remove_old(&self) -> Result<(), CheckpointError> {
        let all = self.list()?;
        let old = &all[..all.len().saturating_sub(self.keep)];
        let heldout = |path: &Path| self.state(path).ok().and_then(|state| state.heldout_nll);
        let best = all
            .iter()
            .filter_map(|(step, path)| Some((heldout(path)?, *step)))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, step)| step);
        for (step, path) in old {
            if Some(*step) != best {
                // Renamed first: a kill in the middle must not leave half a checkpoint under its name.
                let doomed = self.directory.join(format!(".removed-{step}"));
                fs::rename(path, &doomed).map_err(io_error(path))?;
                fs::remove_dir_all(&doomed).map_err(io_error(&doomed))?;
            }
        }
        Ok(())
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> CheckpointError + '_ {
    |source| CheckpointError::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// A file of a checkpoint that does not hold what it should.
fn broken(file: &Path, what: String) -> CheckpointError {
    CheckpointError::Broken {
        path: file.to_path_buf(),
        what,
        checkpoint: file.parent().unwrap_or(file).to_path_buf(),
    }
}

/// A tensor as the safetensors crate wants to see it, without a copy when it lies on the CPU.
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

enum Bytes {
    Host(HostTensor, DType),
    Copied(Vec<u8>),
}

impl Array {
    fn of(tensor: &Tensor<2>) -> Self {
        let bytes = match HostTensor::of(tensor) {
            Some(host) => Bytes::Host(host, tensor.dtype()),
            None => Bytes::Copied(tensor.to_data().bytes().to_vec()),
        };
        Self {
            dtype: match tensor.dtype() {
                DType::F64 => Dtype::F64,
                DType::BF16 => Dtype::BF16,
                DType::F16 => Dtype::F16,
                _ => Dtype::F32,
            },
            shape: tensor.dims().to_vec(),
            bytes,
        }
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
        Cow::Borrowed(match &self.bytes {
            Bytes::Host(host, DType::F64) => bytemuck::cast_slice(host.slice::<f64>()),
            Bytes::Host(host, _) => bytemuck::cast_slice(host.slice::<f32>()),
            Bytes::Copied(bytes) => bytes,
        })
    }
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

fn write_arrays<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, &'a Tensor<2>)>,
) -> Result<(), CheckpointError> {
    let arrays: BTreeMap<String, Array> = tensors
        .map(|(name, tensor)| (name, Array::of(tensor)))
        .collect();
    safetensors::serialize_to_file(arrays, None, path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => io_error(path)(source),
        other => io_error(path)(io::Error::other(other)),
    })?;
    let file = File::open(path).map_err(io_error(path))?;
    file.sync_all().map_err(io_error(path))
}

/// An open safetensors file. It is mapped anew for each tensor: pages of one mapping would all stay resident to the end.
struct Arrays {
    path: PathBuf,
    file: File,
}

impl Arrays {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        Ok(Self {
            path: path.to_path_buf(),
            file: File::open(path).map_err(io_error(path))?,
        })
    }

    /// The tensor `name`, with the shape, dtype and device of `like`.
    fn tensor(&self, name: &str, like: &Tensor<2>) -> Result<Tensor<2>, CheckpointError> {
        let broken = |what: String| broken(&self.path, what);
        // Safety: checkpoints are written once and renamed; nobody changes them while they are read.
        let map = unsafe { Mmap::map(&self.file) }.map_err(io_error(&self.path))?;
        let file = SafeTensors::deserialize(&map).map_err(|error| broken(error.to_string()))?;
        let view = file
            .tensor(name)
            .map_err(|error| broken(format!("{name}: {error}")))?;
        let array = Array::of(like);
        if view.shape() != array.shape || view.dtype() != array.dtype {
            return Err(broken(format!(
                "{name} is {:?} {:?}, expected {:?} {:?}",
                view.dtype(),
                view.shape(),
                array.dtype,
                array.shape
            )));
        }
        let bytes = burn::tensor::Bytes::from_bytes_vec(view.data().to_vec());
        let data = TensorData::from_bytes(bytes, like.dims(), like.dtype());
        Ok(Tensor::from_data(data, (&like.device(), like.dtype())))
    }
}
