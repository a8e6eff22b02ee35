//! Losses of preference training (DPO, arXiv 2305.18290): of a pair of answers, from the log-probabilities of both.
//!
//! With r the log-probability of an answer less that under the reference model, and h = r(chosen) − r(rejected):
//!
//! ```text
//! sigmoid  −(1−ε)·ln σ(βh) − ε·ln σ(−βh)      ε: the share of labels taken to be wrong (conservative DPO)
//! hinge    max(0, 1 − βh)                     SLiC, arXiv 2305.10425
//! ipo      (h − 1/(2β))², each r divided by its number of tokens      arXiv 2310.12036
//! ```
//!
//! Without a reference r is the log-probability itself. `sigmoid` with ε = 0, `hinge` and `ipo` are those of TRL 1.x.

use burn::tensor::{Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// DPO: −ln σ(βh), h by how much more the model has come to prefer the chosen answer than its reference does.
    Sigmoid(SigmoidLoss),
    /// IPO (arXiv 2310.12036): (h − 1/(2β))², by the mean over tokens.
    Ipo(IpoLoss),
    /// SLiC (arXiv 2305.10425): max(0, 1 − βh).
    Hinge(HingeLoss),
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SigmoidLoss {
    /// How closely the model is held to its reference: the larger, the closer.
    #[schemars(range(min = 0.000001, max = 1000))]
    pub beta: f64,
    /// Share of the pairs taken to be the wrong way round (conservative DPO), at least 0 and below 0.5.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
    /// Compare with no reference model.
    pub reference_free: bool,
}

/// Its target 1/(2β) is a distance from the reference, so there is no form without one.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IpoLoss {
    /// How closely the model is held to its reference: the larger, the closer.
    #[schemars(range(min = 0.000001, max = 1000))]
    pub beta: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HingeLoss {
    /// How closely the model is held to its reference: the larger, the closer.
    #[schemars(range(min = 0.000001, max = 1000))]
    pub beta: f64,
    /// Compare with no reference model.
    pub reference_free: bool,
}

const BETA: f64 = 0.1;

impl Default for SigmoidLoss {
    fn default() -> Self {
        Self {
            beta: BETA,
            label_smoothing: 0.0,
            reference_free: false,
        }
    }
}

impl Default for IpoLoss {
    fn default() -> Self {
        Self { beta: BETA }
    }
}

impl Default for HingeLoss {
    fn default() -> Self {
        Self {
            beta: BETA,
            reference_free: false,
        }
    }
}

impl Default for PreferenceLoss {
    fn default() -> Self {
        Self::Sigmoid(SigmoidLoss::default())
    }
}

impl PreferenceLoss {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sigmoid(_) => "sigmoid",
            Self::Ipo(_) => "ipo",
            Self::Hinge(_) => "hinge",
        }
    }

    pub fn beta(&self) -> f64 {
        match self {
            Self::Sigmoid(SigmoidLoss { beta, .. })
            | Self::Ipo(IpoLoss { beta })
            | Self::Hinge(HingeLoss { beta, .. }) => *beta,
        }
    }

    pub fn reference_free(&self) -> bool {
        match self {
            Self::Sigmoid(loss) => loss.reference_free,
            Self::Ipo(_) => false,
            Self::Hinge(loss) => loss.reference_free,
        }
    }

    /// Whether an answer counts by the mean over its tokens, not by their sum.
    pub fn by_mean(&self) -> bool {
        matches!(self, Self::Ipo(_))
    }

    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        require(
            &mut found,
            (1e-6..=1e3).contains(&self.beta()),
            "beta",
            "`beta` must lie between 0.000001 and 1000",
        );
        if let Self::Sigmoid(loss) = self {
            require(
                &mut found,
                (0.0..0.5).contains(&loss.label_smoothing),
                "label_smoothing",
                "`label_smoothing` must be at least 0 and below 0.5: more labels are right than wrong",
            );
        }
        found
    }

    /// The loss at h and its derivative.
    pub fn at(&self, h: f64) -> (f64, f64) {
        match self {
            Self::Sigmoid(loss) => {
                let (u, wrong) = (loss.beta * h, loss.label_smoothing);
                let value = (1.0 - wrong) * softplus(-u) + wrong * softplus(u);
                let slope = wrong * sigmoid(u) - (1.0 - wrong) * sigmoid(-u);
                (value, loss.beta * slope)
            }
            Self::Ipo(loss) => {
                let distance = h - 0.5 / loss.beta;
                (distance * distance, 2.0 * distance)
            }
            Self::Hinge(loss) => {
                let value = 1.0 - loss.beta * h;
                match value <= 0.0 {
                    true => (0.0, 0.0),
                    // NaN stays NaN, so that the step notices it.
                    false => (value, -loss.beta),
                }
            }
        }
    }

    /// As [`Self::at`], on a device.
    pub fn at_tensor(&self, h: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match self {
            Self::Sigmoid(loss) => {
                let (u, wrong) = (h.mul_scalar(loss.beta), loss.label_smoothing);
                let value = activation::log_sigmoid(u.clone()).mul_scalar(wrong - 1.0)
                    - activation::log_sigmoid(u.clone().neg()).mul_scalar(wrong);
                let slope = activation::sigmoid(u.clone()).mul_scalar(wrong)
                    - activation::sigmoid(u.neg()).mul_scalar(1.0 - wrong);
                (value, slope.mul_scalar(loss.beta))
            }
            Self::Ipo(loss) => {
                let distance = h.sub_scalar(0.5 / loss.beta);
                (distance.clone().square(), distance.mul_scalar(2.0))
            }
            Self::Hinge(loss) => {
                let value = h.mul_scalar(-loss.beta).add_scalar(1.0);
                let counts = value.clone().greater_scalar(0.0).float();
                let slope = counts.cast(value.dtype()).mul_scalar(-loss.beta);
                (activation::relu(value), slope)
            }
        }
    }
}

/// ln(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    match x >= 0.0 {
        true => 1.0 / (1.0 + (-x).exp()),
        false => x.exp() / (1.0 + x.exp()),
    }
}

/// Both sides of a pair, the chosen one first: log-probabilities of the whole answers, and their tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogProbs {
    pub log_probs: [f64; 2],
    pub reference: [f64; 2],
    pub tokens: [f64; 2],
}

/// How many values a pair has: the loss; the log-ratios of chosen and rejected; 1 if the chosen one has the larger, a half if
/// both are equal; their
/// log-probabilities.
pub const PAIR_VALUES: usize = 6;

impl PairLogProbs {
    /// The values of the pair, and the derivative of its loss by the log-probability of each token of each side.
    pub fn score(&self, loss: &PreferenceLoss) -> ([f64; PAIR_VALUES], [f64; 2]) {
        let [chosen, rejected] = [0, 1].map(|side| self.log_probs[side] - self.reference[side]);
        let share = match loss.by_mean() {
            true => self.tokens.map(|tokens| 1.0 / tokens.max(1.0)),
            false => [1.0; 2],
        };
        let (value, slope) = loss.at(chosen * share[0] - rejected * share[1]);
        // A pair that is not told apart is right by chance.
        let accurate = match chosen == rejected {
            true => 0.5,
            false => f64::from(u8::from(chosen > rejected)),
        };
        let [a, b] = self.log_probs;
        (
            [value, chosen, rejected, accurate, a, b],
            [slope * share[0], -slope * share[1]],
        )
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};
    use serde_json::Value;

    use super::*;

    fn losses() -> Vec<PreferenceLoss> {
        let all = serde_json::json!([
            { "sigmoid": {} },
            { "sigmoid": { "beta": 0.5, "label_smoothing": 0.1 } },
            { "ipo": {} },
            { "ipo": { "beta": 0.4 } },
            { "hinge": { "beta": 0.3 } },
        ]);
        serde_json::from_value(all).unwrap()
    }

    fn close(found: f64, expected: &Value, what: &str) {
        let expected = expected.as_f64().unwrap();
        let error = (found - expected).abs();
        assert!(
            error <= 1e-6 * (1.0 + expected.abs()),
            "{what}: {found} {expected}"
        );
    }

    #[test]
    fn losses_rewards_and_gradients_equal_trl_s() {
        let golden = include_str!("../../tests/golden/dpo.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 9);
        for case in cases {
            let loss: PreferenceLoss = serde_json::from_value(case["loss"].clone()).unwrap();
            let pairs: Vec<PairLogProbs> = (case["pairs"].as_array().unwrap().iter())
                .map(|pair| {
                    let sides = |key: &str| serde_json::from_value(pair[key].clone()).unwrap();
                    PairLogProbs {
                        log_probs: sides("log_probs"),
                        reference: match loss.reference_free() {
                            true => [0.0; 2],
                            false => sides("reference"),
                        },
                        tokens: sides("tokens"),
                    }
                })
                .collect();
            let count = pairs.len() as f64;
            let mut means = [0.0; PAIR_VALUES];
            for (i, pair) in pairs.iter().enumerate() {
                let (values, slopes) = pair.score(&loss);
                (means.iter_mut().zip(values)).for_each(|(mean, value)| *mean += value / count);
                for side in [0, 1] {
                    let what = format!("{loss:?}, pair {i}, side {side}");
                    close(slopes[side] / count, &case["gradients"][i][side], &what);
                }
            }
            let beta = loss.beta();
            let what = format!("{loss:?}");
            close(means[0], &case["value"], &what);
            close(beta * means[1], &case["chosen_reward"], &what);
            close(beta * means[2], &case["rejected_reward"], &what);
            close(means[3], &case["accuracy"], &what);
        }
    }

    #[test]
    fn slopes_are_finite_differences_and_tensors_say_the_same() {
        for loss in losses() {
            for h in [-40.0, -3.0, -0.1, 0.2, 2.0, 30.0] {
                let (value, slope) = loss.at(h);
                let difference = (loss.at(h + 1e-5).0 - loss.at(h - 1e-5).0) / 2e-5;
                assert!(
                    (slope - difference).abs() <= 1e-6 * (1.0 + slope.abs()),
                    "{loss:?} {h}"
                );
                let data = TensorData::new(vec![h as f32], [1, 1]);
                let h = Tensor::<2>::from_data(data, (&Device::flex(), DType::F32));
                let (by_tensor, slope_by_tensor) = loss.at_tensor(h);
                for (found, expected) in [(by_tensor, value), (slope_by_tensor, slope)] {
                    let found = f64::from(found.into_scalar::<f32>());
                    assert!(
                        (found - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                        "{loss:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_overflows_and_nan_stays() {
        for loss in losses() {
            for h in [-1e6, 1e6] {
                let (value, slope) = loss.at(h);
                assert!(value.is_finite() && slope.is_finite(), "{loss:?} {h}");
            }
            assert!(loss.at(f64::NAN).0.is_nan(), "{loss:?}");
        }
    }
}
