//! `adapter_config.json`, as PEFT 0.21 writes and reads it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::WeightsError;
use super::json_fields::JsonFields;
use crate::linear::lora::{self, LoraConfig};

/// Keys that change nothing here: where the adapter came from, which modules it names (the tensors tell), how the
/// matrices began.
const OF_NO_MATTER: [&str; 15] = [
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

const READ: [&str; 9] = [
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "use_rslora",
];

/// Initialisations that leave the base as it was; others subtract from it what the adapter begins with.
const PLAIN_BEGINNINGS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// A larger `lora_alpha` is a mistake: the product would leave the range of numbers.
const LARGEST_ALPHA: f64 = 65536.0;

/// PEFT's, where `r` is left out.
const PEFT_RANK: usize = 8;

/// What the low-rank product of each module is multiplied by.
pub(crate) struct Scales {
    alpha: f64,
    /// By the ends of module names; the first that fits counts.
    patterns: Vec<(String, f64)>,
    rslora: bool,
    /// `r`, and what `rank_pattern` says of some modules.
    rank: usize,
    /// `None` when it holds regular expressions.
    ranks: Option<Vec<(String, usize)>>,
}

impl Scales {
    pub(crate) fn of(&self, module: &str, rank: usize) -> f64 {
        let alpha = told(&self.patterns, module).unwrap_or(self.alpha);
        lora::scale(alpha, rank, self.rslora)
    }

    /// The rank that the configuration tells of a module, where it does.
    pub(crate) fn rank(&self, module: &str) -> Option<usize> {
        let ranks = self.ranks.as_ref()?;
        Some(told(ranks, module).unwrap_or(self.rank))
    }
}

fn told<T: Copy>(patterns: &[(String, T)], module: &str) -> Option<T> {
    let fits = |end: &str| module == end || module.ends_with(&format!(".{end}"));
    let found = patterns.iter().find(|(end, _)| fits(end));
    found.map(|(_, value)| *value)
}

/// # Errors
/// [`WeightsError::Unsupported`], which names the first key that asks for more than plain LoRA.
pub(crate) fn read(fields: &JsonFields, json: &Value) -> Result<Scales, WeightsError> {
    let path = fields.path;
    let kind = fields.text("peft_type")?.unwrap_or("absent");
    if kind != "LORA" {
        return Err(unsupported(path, "peft_type", &json!(kind), "\"LORA\""));
    }
    for (key, value) in json.as_object().into_iter().flatten() {
        let key = key.as_str();
        let is_known = OF_NO_MATTER.contains(&key) || READ.contains(&key);
        if !is_known && !is_nothing(value) {
            return Err(unsupported(
                path,
                key,
                value,
                "null or false, which is plain LoRA",
            ));
        }
    }
    if let Some(bias) = fields.value("bias").filter(|bias| **bias != json!("none")) {
        return Err(unsupported(path, "bias", bias, "\"none\""));
    }
    if let Some(text) = fields.value("init_lora_weights").and_then(Value::as_str)
        && !PLAIN_BEGINNINGS.contains(&text)
    {
        let accepted = format!("true, false, {}", PLAIN_BEGINNINGS.join(", "));
        return Err(unsupported(
            path,
            "init_lora_weights",
            &json!(text),
            &accepted,
        ));
    }
    for key in ["alpha_pattern", "rank_pattern"] {
        if fields.value(key).is_some_and(|value| !value.is_object()) {
            return Err(fields.wrong(key, "values by names of modules"));
        }
    }
    let alphas = patterns(fields, "alpha_pattern", Value::as_f64)?;
    let alpha = fields.required_float("lora_alpha")?;
    let is_large = |alpha: &f64| alpha.is_nan() || alpha.abs() > LARGEST_ALPHA;
    let expected = format!("numbers of at most {LARGEST_ALPHA}");
    if is_large(&alpha) {
        return Err(fields.wrong("lora_alpha", &expected));
    }
    if let Some((module, alpha)) = alphas.iter().find(|(_, alpha)| is_large(alpha)) {
        let key = format!("`alpha_pattern` of `{module}`");
        return Err(WeightsError::unsupported(
            path,
            key,
            alpha.to_string(),
            expected,
        ));
    }
    let whole = |value: &Value| value.as_u64().and_then(|rank| rank.try_into().ok());
    // The tensors tell the ranks; what can be read here must agree with them.
    let ranks = patterns(fields, "rank_pattern", whole).ok();
    let rank = fields
        .value("r")
        .map_or(PEFT_RANK, |r| whole(r).unwrap_or(0));
    Ok(Scales {
        alpha,
        patterns: alphas,
        rslora: fields.boolean("use_rslora")?.unwrap_or(false),
        rank,
        ranks,
    })
}

/// Values by the ends of module names.
fn patterns<T>(
    fields: &JsonFields,
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>, WeightsError> {
    let listed = fields.value(key).and_then(Value::as_object);
    (listed.into_iter().flatten())
        .map(|(pattern, value)| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
            let value = read(value).filter(|_| pattern.bytes().all(is_plain));
            let accepted = "names of modules, without signs of a regular expression";
            let unsupported = || unsupported(fields.path, key, &json!(pattern), accepted);
            Ok((pattern.clone(), value.ok_or_else(unsupported)?))
        })
        .collect()
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    }
}

fn unsupported(path: &Path, key: &str, value: &Value, accepted: &str) -> WeightsError {
    WeightsError::unsupported(path, format!("`{key}`"), value.to_string(), accepted)
}

/// What PEFT wants to find for an adapter of ours.
pub(crate) fn written(config: &LoraConfig, target_modules: &[String]) -> Map<String, Value> {
    let alpha = match config.alpha.fract() == 0.0 {
        true => json!(config.alpha as i64),
        false => json!(config.alpha),
    };
    let json = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": null,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "target_modules": target_modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
    });
    json.as_object().cloned().unwrap_or_default()
}
