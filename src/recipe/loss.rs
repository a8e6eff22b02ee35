//! One entry of a stage's `loss` list.

use serde::{Deserialize, Serialize};

use super::invalid::Invalid;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    pub kind: LossKind,
    #[serde(default = "one")]
    pub weight: f64,
    /// Softens teacher and student alike; 1 when left out.
    pub temperature: Option<f64>,
    /// `jsd`: the teacher's share of the mixture; 0.5 when left out.
    pub beta: Option<f64>,
    /// `skew_kl` and `skew_reverse_kl`: the share mixed in; 0.1 when left out.
    pub alpha: Option<f64>,
    /// `hidden_mse` and `hidden_cosine`: pairs of (student layer, teacher layer).
    pub layers: Option<Vec<[usize; 2]>>,
}

fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    ForwardKl,
    ReverseKl,
    Jsd,
    SkewKl,
    SkewReverseKl,
    Tvd,
    CrossEntropy,
    HiddenMse,
    HiddenCosine,
}

impl LossKind {
    fn compares_hidden_states(self) -> bool {
        matches!(self, Self::HiddenMse | Self::HiddenCosine)
    }

    fn takes_temperature(self) -> bool {
        self != Self::CrossEntropy && !self.compares_hidden_states()
    }

    fn takes_alpha(self) -> bool {
        matches!(self, Self::SkewKl | Self::SkewReverseKl)
    }
}

impl LossConfig {
    pub fn temperature(&self) -> f64 {
        self.temperature.unwrap_or(1.0)
    }

    pub fn beta(&self) -> f64 {
        self.beta.unwrap_or(0.5)
    }

    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(0.1)
    }

    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut refuse = |key: &str, message: String| found.push(Invalid::new(key, message));
        let name = serde_json::to_value(self.kind).unwrap_or_default();
        let name = name.as_str().unwrap_or_default();
        for (key, given, taken) in [
            (
                "temperature",
                self.temperature.is_some(),
                self.kind.takes_temperature(),
            ),
            ("beta", self.beta.is_some(), self.kind == LossKind::Jsd),
            ("alpha", self.alpha.is_some(), self.kind.takes_alpha()),
            (
                "layers",
                self.layers.is_some(),
                self.kind.compares_hidden_states(),
            ),
        ] {
            if given && !taken {
                refuse(key, format!("`{key}` has no meaning for `{name}`"));
            }
        }
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            refuse("weight", "`weight` must be above 0".into());
        }
        if !(self.temperature() > 0.0 && self.temperature().is_finite()) {
            refuse("temperature", "`temperature` must be above 0".into());
        }
        if !(0.0..=1.0).contains(&self.beta()) {
            refuse("beta", "`beta` must lie between 0 and 1".into());
        }
        if !(0.0..1.0).contains(&self.alpha()) {
            refuse("alpha", "`alpha` must be at least 0 and below 1".into());
        }
        if self.kind.compares_hidden_states() && self.layers.as_ref().is_none_or(Vec::is_empty) {
            found.push(
                Invalid::new("layers", format!("`{name}` needs `layers`"))
                    .hint("pairs of a student's and a teacher's layer: layers = [[0, 0], [9, 29]]"),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{document::Document, read::read};

    fn check(text: &str) -> Vec<String> {
        let node = Document::default().parse("t", text).unwrap();
        let loss: LossConfig = read(&node).unwrap();
        loss.check()
            .into_iter()
            .map(|invalid| invalid.message)
            .collect()
    }

    #[test]
    fn keys_belong_to_their_loss() {
        for (text, wanted) in [
            ("kind = \"forward_kl\"\ntemperature = 2", None),
            ("kind = \"jsd\"\nbeta = 0", None),
            ("kind = \"hidden_mse\"\nlayers = [[0, 1]]", None),
            (
                "kind = \"cross_entropy\"\ntemperature = 2",
                Some("`temperature` has no meaning for `cross_entropy`"),
            ),
            (
                "kind = \"tvd\"\nbeta = 0.5",
                Some("`beta` has no meaning for `tvd`"),
            ),
            (
                "kind = \"hidden_cosine\"",
                Some("`hidden_cosine` needs `layers`"),
            ),
            (
                "kind = \"skew_kl\"\nalpha = 1",
                Some("`alpha` must be at least 0 and below 1"),
            ),
            (
                "kind = \"reverse_kl\"\nweight = 0",
                Some("`weight` must be above 0"),
            ),
            (
                "kind = \"reverse_kl\"\ntemperature = -1",
                Some("`temperature` must be above 0"),
            ),
        ] {
            assert_eq!(check(text).first().map(String::as_str), wanted, "{text}");
        }
    }
}
