//! The losses as a recipe names them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Temperatures outside this range are taken for typing errors; inside it `T²` and `1/T` are harmless in f32.
const TEMPERATURES: std::ops::RangeInclusive<f64> = 1e-3..=1e3;

/// A mixture weight this close to 0 or 1, but not on it, is a limit that f32 cannot tell from the limit itself.
const SMALLEST_SHARE: f64 = 1e-6;

/// One term of the objective. The total is the sum over the listed terms of `weight · loss`.
///
/// Serialised as a one-key table (`{ forward_kl = { weight = 0.9 } }`); unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossConfig {
    /// T² · KL(teacher‖student).
    ForwardKl(Tempered),
    /// T² · KL(student‖teacher).
    ReverseKl(Tempered),
    /// T² · generalised Jensen–Shannon divergence.
    Jsd(JsdConfig),
    /// T² · KL(p ‖ αp + (1−α)q), p the teacher and q the student (DistiLLM).
    SkewKl(SkewConfig),
    /// T² · KL(q ‖ (1−α)p + αq), p the teacher and q the student (DistiLLM).
    SkewReverseKl(SkewConfig),
    /// Total variation distance.
    Tvd(Tempered),
    /// Distance of sorted probabilities, for a teacher with another vocabulary.
    UniversalLogit(Tempered),
    /// −log q(label) at temperature 1: the data alone.
    CrossEntropy(Weighted),
    /// Mean squared difference of hidden states.
    HiddenMse(HiddenConfig),
    /// 1 − cos of hidden states.
    HiddenCosine(HiddenConfig),
}

/// A term that has nothing but a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Weighted {
    /// Factor of this loss in the sum.
    #[schemars(range(min = 0))]
    pub weight: f64,
}

/// A term between teacher and student distributions at a temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tempered {
    /// Factor of this loss in the sum.
    #[schemars(range(min = 0))]
    pub weight: f64,
    /// Divides the logits of both models, 0.001 to 1000.
    #[schemars(range(min = 0.001, max = 1000))]
    pub temperature: f64,
}

/// Generalised Jensen–Shannon divergence; `beta` is the teacher's share of the mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JsdConfig {
    /// Factor of this loss in the sum.
    #[schemars(range(min = 0))]
    pub weight: f64,
    /// The teacher's share of the mixture, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub beta: f64,
    /// Divides the logits of both models, 0.001 to 1000.
    #[schemars(range(min = 0.001, max = 1000))]
    pub temperature: f64,
}

/// Skewed divergences; `alpha` is how much of the first argument is mixed into the second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SkewConfig {
    /// Factor of this loss in the sum.
    #[schemars(range(min = 0))]
    pub weight: f64,
    /// How much of the first distribution is mixed into the second, at least 0 and below 1.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub alpha: f64,
    /// Divides the logits of both models, 0.001 to 1000.
    #[schemars(range(min = 0.001, max = 1000))]
    pub temperature: f64,
}

/// A term between hidden states, summed over `[student layer, teacher layer]` pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HiddenConfig {
    /// Factor of this loss in the sum.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub weight: f64,
    /// Pairs [student layer, teacher layer] that are compared.
    #[schemars(length(min = 1))]
    pub layers: Vec<[usize; 2]>,
}

fn one() -> f64 {
    1.0
}

impl Default for Weighted {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl Default for Tempered {
    fn default() -> Self {
        Self {
            weight: 1.0,
            temperature: 1.0,
        }
    }
}

impl Default for JsdConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            beta: 0.5,
            temperature: 1.0,
        }
    }
}

impl Default for SkewConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            alpha: 0.1,
            temperature: 1.0,
        }
    }
}

/// What is wrong with the losses of a recipe.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LossConfigError {
    #[error("no loss is listed; name at least one, for example {{ kind = \"cross_entropy\" }}")]
    Empty,
    #[error("every loss has weight 0, so there is nothing to learn")]
    AllZero,
    #[error("{loss}: {field} = {value} is out of range; it must be {accepted}")]
    OutOfRange {
        loss: &'static str,
        field: &'static str,
        value: f64,
        accepted: &'static str,
    },
    #[error("{loss}: `layers` is empty; list pairs [student layer, teacher layer]")]
    NoLayers { loss: &'static str },
}

impl LossConfig {
    /// The name in recipes and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ForwardKl(_) => "forward_kl",
            Self::ReverseKl(_) => "reverse_kl",
            Self::Jsd(_) => "jsd",
            Self::SkewKl(_) => "skew_kl",
            Self::SkewReverseKl(_) => "skew_reverse_kl",
            Self::Tvd(_) => "tvd",
            Self::UniversalLogit(_) => "universal_logit",
            Self::CrossEntropy(_) => "cross_entropy",
            Self::HiddenMse(_) => "hidden_mse",
            Self::HiddenCosine(_) => "hidden_cosine",
        }
    }

    /// The factor of this term in the total.
    pub fn weight(&self) -> f64 {
        match self {
            Self::ForwardKl(c) | Self::ReverseKl(c) | Self::Tvd(c) => c.weight,
            Self::UniversalLogit(c) => c.weight,
            Self::Jsd(c) => c.weight,
            Self::SkewKl(c) | Self::SkewReverseKl(c) => c.weight,
            Self::CrossEntropy(c) => c.weight,
            Self::HiddenMse(c) | Self::HiddenCosine(c) => c.weight,
        }
    }

    /// The temperature that divides the logits, where the term compares them column by column.
    pub fn temperature(&self) -> Option<f64> {
        match self {
            Self::ForwardKl(c) | Self::ReverseKl(c) | Self::Tvd(c) => Some(c.temperature),
            Self::Jsd(c) => Some(c.temperature),
            Self::SkewKl(c) | Self::SkewReverseKl(c) => Some(c.temperature),
            Self::CrossEntropy(_) => Some(1.0),
            Self::UniversalLogit(_) | Self::HiddenMse(_) | Self::HiddenCosine(_) => None,
        }
    }

    /// The layer pairs of a hidden-state term.
    pub fn layers(&self) -> Option<&[[usize; 2]]> {
        match self {
            Self::HiddenMse(c) | Self::HiddenCosine(c) => Some(&c.layers),
            _ => None,
        }
    }

    /// Whether the term compares with a teacher at all.
    pub fn needs_teacher(&self) -> bool {
        !matches!(self, Self::CrossEntropy(_))
    }

    /// Checks the numbers; the message names the loss, the field and what is accepted.
    pub fn validate(&self) -> Result<(), LossConfigError> {
        let loss = self.name();
        let check = |field, value: f64, accepted, ok| {
            if ok {
                Ok(())
            } else {
                Err(LossConfigError::OutOfRange {
                    loss,
                    field,
                    value,
                    accepted,
                })
            }
        };
        let weight = self.weight();
        check(
            "weight",
            weight,
            "finite and at least 0",
            weight.is_finite() && weight >= 0.0,
        )?;
        let of_sorted = match self {
            Self::UniversalLogit(c) => Some(c.temperature),
            _ => None,
        };
        if let Some(t) = self.temperature().or(of_sorted) {
            check(
                "temperature",
                t,
                "between 0.001 and 1000",
                TEMPERATURES.contains(&t),
            )?;
        }
        match self {
            Self::Jsd(c) => {
                let inside = (SMALLEST_SHARE..=1.0 - SMALLEST_SHARE).contains(&c.beta);
                let ok = inside || c.beta == 0.0 || c.beta == 1.0;
                check("beta", c.beta, "0, 1 or between 1e-6 and 1 - 1e-6", ok)
            }
            Self::SkewKl(c) | Self::SkewReverseKl(c) => {
                let inside = (SMALLEST_SHARE..=1.0 - SMALLEST_SHARE).contains(&c.alpha);
                check(
                    "alpha",
                    c.alpha,
                    "0 or between 1e-6 and 1 - 1e-6",
                    inside || c.alpha == 0.0,
                )
            }
            Self::HiddenMse(c) | Self::HiddenCosine(c) if c.layers.is_empty() => {
                Err(LossConfigError::NoLayers { loss })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<LossConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_filled_in() {
        assert_eq!(
            parse(r#"{"jsd":{}}"#).unwrap(),
            LossConfig::Jsd(JsdConfig::default())
        );
        assert_eq!(
            parse(r#"{"skew_kl":{}}"#).unwrap(),
            LossConfig::SkewKl(SkewConfig::default())
        );
        let hidden = parse(r#"{"hidden_mse":{"layers":[[1,2],[3,8]]}}"#).unwrap();
        assert_eq!(hidden.layers().unwrap(), &[[1, 2], [3, 8]]);
        assert_eq!(hidden.weight(), 1.0);
    }

    #[test]
    fn unknown_keys_name_the_accepted_ones() {
        let message = parse(r#"{"forward_kl":{"temprature":2}}"#).unwrap_err();
        assert!(
            message.contains("temprature") && message.contains("temperature"),
            "{message}"
        );
        assert!(parse(r#"{"kl":{}}"#).unwrap_err().contains("forward_kl"));
        assert!(parse(r#"{"cross_entropy":{"temperature":2}}"#).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        for (json, field) in [
            (r#"{"forward_kl":{"temperature":0}}"#, "temperature"),
            (r#"{"tvd":{"temperature":-1}}"#, "temperature"),
            (r#"{"universal_logit":{"temperature":0}}"#, "temperature"),
            (r#"{"reverse_kl":{"weight":-0.5}}"#, "weight"),
            (r#"{"jsd":{"beta":1.5}}"#, "beta"),
            (r#"{"skew_reverse_kl":{"alpha":1}}"#, "alpha"),
            (r#"{"hidden_cosine":{"layers":[]}}"#, "layers"),
        ] {
            let message = parse(json).unwrap().validate().unwrap_err().to_string();
            assert!(message.contains(field), "{json}: {message}");
        }
        let infinite = LossConfig::CrossEntropy(Weighted {
            weight: f64::INFINITY,
        });
        assert!(infinite.validate().is_err());
        assert!(parse(r#"{"jsd":{"beta":0}}"#).unwrap().validate().is_ok());
    }
}
