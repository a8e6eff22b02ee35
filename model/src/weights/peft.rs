//! Adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors` in a directory. Ours have a
//! `base.json` beside them, which says what they were trained on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::dtype::WeightDtype;
use super::error::WeightsError;
use super::hf_config::read_json;
use super::json_fields::JsonFields;
use super::peft_config;
use super::safetensors::SafetensorsFile;
use super::safetensors_writer::SafetensorsWriter;
use super::staged_directory::StagedDirectory;
use crate::decoder::Decoder;
use crate::linear::Linear;
use crate::linear::lora::{self, BaseForm, Lora, LoraConfig, matches_module};

pub const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const BASE_FILE: &str = "base.json";
/// What PEFT puts before the names of a model's modules.
const PREFIX: &str = "base_model.model.";
/// A larger description is none.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// The adapter of a model, with its matrices in memory.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    path: PathBuf,
    config: Map<String, Value>,
    /// By the adapted module: `model.layers.0.self_attn.q_proj`.
    modules: BTreeMap<String, LowRank>,
    base: Option<AdapterBase>,
}

/// What an adapter was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterBase {
    /// Absolute, or seen from the adapter's directory.
    pub path: PathBuf,
    /// [`super::checkpoint::Checkpoint::digest`]
    pub digest: String,
    pub form: BaseForm,
}

#[derive(Debug, Clone)]
struct LowRank {
    output: usize,
    rank: usize,
    input: usize,
    scale: f64,
    /// `[rank, input]`
    a: Vec<f32>,
    /// `[output, rank]`
    b: Vec<f32>,
}

impl PeftAdapter {
    /// Whether a directory holds an adapter.
    pub fn is_at(directory: &Path) -> bool {
        directory.join(CONFIG_FILE).exists()
    }

    /// # Errors
    /// When a file is missing or malformed; [`WeightsError::Unsupported`] for what is more than plain LoRA.
    pub fn open(directory: &Path) -> Result<Self, WeightsError> {
        let config_path = directory.join(CONFIG_FILE);
        let json = read_json(&config_path, MAX_JSON_BYTES)?;
        let fields = JsonFields::new(&config_path, &json)?;
        let scales = peft_config::read(&fields, &json)?;
        let file = SafetensorsFile::open(&directory.join(WEIGHTS_FILE))?;
        let mut modules = BTreeMap::new();
        for (name, _) in file.tensors() {
            let plain = name.strip_prefix(PREFIX).unwrap_or(name);
            if plain.ends_with(".lora_B.weight") {
                continue;
            }
            let module = plain.strip_suffix(".lora_A.weight").ok_or_else(|| {
                let reason = "it is no low-rank matrix of a linear layer";
                unexpected(&file, name, reason)
            })?;
            let low_rank = read_module(&file, name, |rank| scales.of(module, rank))?;
            if let Some(rank) = scales.rank(module).filter(|rank| *rank != low_rank.rank) {
                let reason = format!(
                    "its rank is {}, but {CONFIG_FILE} says {rank}",
                    low_rank.rank
                );
                return Err(unexpected(&file, name, &reason));
            }
            if !low_rank
                .a
                .iter()
                .chain(&low_rank.b)
                .all(|value| value.is_finite())
            {
                return Err(unexpected(
                    &file,
                    name,
                    "it or its lora_B has values that are not finite",
                ));
            }
            modules.insert(module.to_owned(), low_rank);
        }
        if let Some((name, _)) = file.tensors().find(|(name, _)| {
            let plain = name.strip_prefix(PREFIX).unwrap_or(name);
            let module = plain.strip_suffix(".lora_B.weight");
            module.is_some_and(|module| !modules.contains_key(module))
        }) {
            return Err(unexpected(&file, name, "its lora_A is missing"));
        }
        let base_path = directory.join(BASE_FILE);
        let base = match base_path.exists() {
            false => None,
            true => {
                let json = read_json(&base_path, MAX_JSON_BYTES)?;
                let read = serde_json::from_value(json);
                Some(read.map_err(|error| WeightsError::malformed(&base_path, error.to_string()))?)
            }
        };
        Ok(Self {
            path: directory.to_owned(),
            config: json.as_object().cloned().unwrap_or_default(),
            modules,
            base,
        })
    }

    /// What is at work on a decoder's linear layers, as `config` describes it.
    pub fn of(decoder: &Decoder, config: &LoraConfig, base: AdapterBase) -> Self {
        let adapted = |linear: &Linear| {
            let lora = linear.adapter()?;
            let ([rank, input], [output, _]) = (lora.a.value.dims(), lora.b.value.dims());
            let low_rank = LowRank {
                output,
                rank,
                input,
                scale: lora.scale,
                a: lora.a.values(),
                b: lora.b.values(),
            };
            Some((linear.module().to_owned(), low_rank))
        };
        let modules: BTreeMap<String, LowRank> = decoder.linears().filter_map(adapted).collect();
        let targets = target_modules(decoder);
        Self {
            path: PathBuf::new(),
            config: peft_config::written(config, &targets),
            modules,
            base: Some(base),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was trained on, where that is known.
    pub fn base(&self) -> Option<&AdapterBase> {
        self.base.as_ref()
    }

    /// The same adapter that names its base by another path.
    pub fn with_base_path(mut self, path: PathBuf) -> Self {
        if let Some(base) = &mut self.base {
            base.path = path;
        }
        self
    }

    /// How the frozen matrices were held in training; as they are stored where that is not known.
    pub fn form(&self) -> BaseForm {
        self.base
            .as_ref()
            .map_or_else(BaseForm::default, |base| base.form)
    }

    /// The largest of its modules' ranks.
    pub fn rank(&self) -> usize {
        let ranks = self.modules.values().map(|module| module.rank);
        ranks.max().unwrap_or(0)
    }

    pub fn adapts(&self, module: &str) -> bool {
        self.modules.contains_key(module)
    }

    /// What keeps it from a model of these shapes, by tensor names; `None` when it fits.
    pub(crate) fn misfit(&self, expected: &HashMap<String, Vec<usize>>) -> Option<String> {
        self.modules.iter().find_map(|(module, found)| {
            let is_linear = module.starts_with("model.layers.");
            let shape = expected
                .get(&format!("{module}.weight"))
                .filter(|_| is_linear);
            let adapted = vec![found.output, found.input];
            match shape {
                None => Some(format!("there is no linear layer `{module}` in its blocks")),
                Some(shape) if *shape != adapted => Some(format!(
                    "`{module}` is adapted as {adapted:?}, but has shape {shape:?}"
                )),
                Some(_) => None,
            }
        })
    }

    /// W + s·B·A for the values `[out, in]` of a module's matrix.
    pub(crate) fn merge(&self, module: &str, weight: Vec<f32>) -> Vec<f32> {
        match self.modules.get(module) {
            Some(m) => lora::merge(weight, [m.output, m.rank, m.input], &m.a, &m.b, m.scale),
            None => weight,
        }
    }

    /// Puts it to work, under a name, on the decoder whose base it fits.
    pub fn attach(&self, name: &str, decoder: &mut Decoder) {
        let like = decoder.norm.value.clone();
        for linear in decoder.linears_mut() {
            if let Some(m) = self.modules.get(linear.module()) {
                let shape = [m.output, m.rank, m.input];
                let values = (m.a.clone(), m.b.clone());
                let lora = Lora::of_values(linear.module(), shape, values, m.scale, &like);
                linear.add_adapter(name, lora);
            }
        }
    }

    /// How it differs from what `config` asks for on this decoder, dropout aside.
    pub fn difference(&self, config: &LoraConfig, decoder: &Decoder) -> Option<String> {
        if self.base.is_some() && self.form() != config.base {
            let [found, wanted] = [self.form(), config.base].map(|form| json!(form));
            return Some(format!("its `base` is {found}, here it is {wanted}"));
        }
        decoder.linears().find_map(|linear| {
            let module = linear.module();
            let is_named = |pattern: &String| matches_module(pattern, module);
            match (
                self.modules.get(module),
                config.targets.iter().any(is_named),
            ) {
                (None, true) => Some(format!("it does not adapt {module}, which `targets` name")),
                (Some(_), false) => {
                    Some(format!("it adapts {module}, which `targets` do not name"))
                }
                (Some(found), true) => {
                    let scale = lora::scale(config.alpha, config.rank, config.rslora);
                    let differs = (found.rank, found.scale) != (config.rank, scale);
                    differs.then(|| {
                        format!(
                            "its rank is {} and its scale {}, here they are {} and {scale}",
                            found.rank, found.scale, config.rank
                        )
                    })
                }
                (None, false) => None,
            }
        })
    }

    /// Writes the adapter's files into a directory that the caller commits.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; [`WeightsError::Unwritable`] for a value beyond the range of `dtype`.
    pub fn write(&self, staged: &StagedDirectory, dtype: WeightDtype) -> Result<(), WeightsError> {
        staged.write(
            CONFIG_FILE,
            pretty(&Value::Object(self.config.clone())).as_bytes(),
        )?;
        if let Some(base) = &self.base {
            staged.write(BASE_FILE, pretty(&json!(base)).as_bytes())?;
        }
        let named = |module: &str, kind: &str| format!("{PREFIX}{module}.{kind}.weight");
        let mut tensors = Vec::new();
        for (module, m) in &self.modules {
            tensors.push((named(module, "lora_A"), vec![m.rank, m.input], &m.a));
            tensors.push((named(module, "lora_B"), vec![m.output, m.rank], &m.b));
        }
        let shapes: Vec<_> = (tensors.iter())
            .map(|(name, shape, _)| (name.clone(), shape.clone()))
            .collect();
        let path = staged.path().join(WEIGHTS_FILE);
        let mut writer = SafetensorsWriter::create(&path, dtype, &shapes)?;
        for (name, shape, values) in tensors {
            writer.write(&name, &shape, values)?;
        }
        writer.finish()
    }

    /// The directory that a tokenizer lies in beside the adapter, if one does.
    pub(crate) fn tokenizer_directory(&self) -> Option<PathBuf> {
        let has_one = self.path.join("tokenizer.json").exists();
        has_one.then(|| self.path.clone())
    }
}

/// The matrices of one module; `name_a` is the tensor of A.
fn read_module(
    file: &SafetensorsFile,
    name_a: &str,
    scale: impl FnOnce(usize) -> f64,
) -> Result<LowRank, WeightsError> {
    let name_b = name_a.replace(".lora_A.", ".lora_B.");
    let find = |name: &str| {
        file.tensor(name)
            .ok_or_else(|| WeightsError::MissingTensor {
                path: file.path().to_owned(),
                tensor: name.to_owned(),
                hint: String::new(),
            })
    };
    let (a, b) = (find(name_a)?, find(&name_b)?);
    let ([rank, input], [output, inner]) = (
        matrix(file, name_a, &a.shape)?,
        matrix(file, &name_b, &b.shape)?,
    );
    if rank != inner || rank == 0 {
        return Err(WeightsError::Shape {
            path: file.path().to_owned(),
            tensor: name_b,
            found: b.shape.clone(),
            expected: vec![output, rank.max(1)],
        });
    }
    Ok(LowRank {
        output,
        rank,
        input,
        scale: scale(rank),
        a: file.read(name_a, a)?,
        b: file.read(&name_b, b)?,
    })
}

fn matrix(file: &SafetensorsFile, name: &str, shape: &[usize]) -> Result<[usize; 2], WeightsError> {
    shape.try_into().map_err(|_| {
        let problem = format!("tensor `{name}` has shape {shape:?}, expected a matrix");
        WeightsError::malformed(file.path(), problem)
    })
}

fn unexpected(file: &SafetensorsFile, name: &str, reason: &str) -> WeightsError {
    WeightsError::UnexpectedTensor {
        path: file.path().to_owned(),
        tensor: name.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Names of modules as PEFT matches them, by their ends: the last parts where these name exactly what is adapted.
fn target_modules(decoder: &Decoder) -> Vec<String> {
    let last = |linear: &Linear| {
        linear
            .module()
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let adapted = || {
        decoder
            .linears()
            .filter(|linear| linear.adapter().is_some())
    };
    let short: BTreeSet<String> = adapted().map(last).collect();
    let named = decoder
        .linears()
        .filter(|linear| short.contains(&last(linear)));
    match named.count() == adapted().count() {
        true => short.into_iter().collect(),
        false => adapted().map(|linear| linear.module().to_owned()).collect(),
    }
}

fn pretty(json: &Value) -> String {
    format!("{json:#}\n")
}

/// The digest and the form of a base, for messages and for `base.json`.
impl AdapterBase {
    /// Where it lies, for an adapter in `directory`.
    pub fn path_from(&self, directory: &Path) -> PathBuf {
        let joined = directory.join(&self.path);
        fs::canonicalize(&joined).unwrap_or(joined)
    }
}
