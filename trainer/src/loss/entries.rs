//! The listed losses, ordered for the kernel: those that share a temperature share their exponentials.

use super::config::{LossConfig, LossConfigError};
use super::divergence::AnyDivergence;
use super::forward_kl::ForwardKl;
use super::jsd::Jsd;
use super::reverse_kl::ReverseKl;
use super::skew_kl::SkewKl;
use super::skew_reverse_kl::SkewReverseKl;
use super::tvd::Tvd;
use super::universal_logit::UniversalLogit;

/// A checked list of losses. Terms over the vocabulary are for the row kernels; hidden-state terms keep their slot among
/// the values and are computed by [`super::hidden`].
#[derive(Clone, Debug)]
pub struct LossEntries {
    configs: Vec<LossConfig>,
    pub(super) groups: Vec<Group>,
    pub(super) universal: Option<UniversalLogit>,
}

/// The terms of one temperature.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub temperature: f64,
    pub divergences: Vec<DivergenceTerm>,
    pub labels: Vec<LabelTerm>,
}

#[derive(Clone, Debug)]
pub(super) struct DivergenceTerm {
    /// Place in the list of losses.
    pub slot: usize,
    pub divergence: AnyDivergence,
    /// T², or 1 for the total variation distance.
    pub value_factor: f64,
    /// From the gradient by tempered logits to the weighted one by logits: weight · value_factor / T.
    pub gradient_factor: f64,
}

#[derive(Clone, Debug)]
pub(super) struct LabelTerm {
    pub slot: usize,
    pub weight: f64,
}

impl LossEntries {
    /// Checks every entry, and that there is something to learn.
    pub fn new(configs: &[LossConfig]) -> Result<Self, LossConfigError> {
        if configs.is_empty() {
            return Err(LossConfigError::Empty);
        }
        configs.iter().try_for_each(LossConfig::validate)?;
        if configs.iter().all(|c| c.weight() == 0.0) {
            return Err(LossConfigError::AllZero);
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut universal = None;
        for (slot, config) in configs.iter().enumerate() {
            if let LossConfig::UniversalLogit(config) = config {
                universal = Some(UniversalLogit {
                    slot,
                    weight: config.weight,
                    temperature: config.temperature,
                });
            }
            let Some(temperature) = config.temperature() else {
                continue;
            };
            let at = groups
                .iter()
                .position(|g| g.temperature == temperature)
                .unwrap_or_else(|| {
                    groups.push(Group {
                        temperature,
                        divergences: Vec::new(),
                        labels: Vec::new(),
                    });
                    groups.len() - 1
                });
            let weight = config.weight();
            match divergence(config) {
                Some(divergence) => {
                    let value_factor = match divergence {
                        AnyDivergence::Tvd(_) => 1.0,
                        _ => temperature * temperature,
                    };
                    let gradient_factor = weight * value_factor / temperature;
                    groups[at].divergences.push(DivergenceTerm {
                        slot,
                        divergence,
                        value_factor,
                        gradient_factor,
                    });
                }
                None => groups[at].labels.push(LabelTerm { slot, weight }),
            }
        }
        Ok(Self {
            configs: configs.to_vec(),
            groups,
            universal,
        })
    }

    /// The losses as they were listed; values are reported in this order.
    pub fn configs(&self) -> &[LossConfig] {
        &self.configs
    }

    /// How many values a kernel adds to.
    pub fn count(&self) -> usize {
        self.configs.len()
    }

    /// Whether some term compares with the teacher's logits.
    pub fn needs_teacher_logits(&self) -> bool {
        self.groups.iter().any(|g| !g.divergences.is_empty())
    }

    /// Whether some term compares with a teacher's logits, over the same tokens or others.
    pub fn compares(&self) -> bool {
        self.needs_teacher_logits() || self.is_universal()
    }

    /// Whether distributions over different vocabularies are compared.
    pub fn is_universal(&self) -> bool {
        self.universal.is_some()
    }

    /// Whether some term is KL(student ‖ teacher), which is infinite where only the teacher has 0.
    pub fn has_reverse_kl(&self) -> bool {
        self.configs.iter().any(|config| match config {
            LossConfig::ReverseKl(_) => true,
            LossConfig::Jsd(jsd) => jsd.beta == 1.0,
            _ => false,
        })
    }

    /// Whether some term looks at the labels.
    pub fn needs_labels(&self) -> bool {
        self.groups.iter().any(|g| !g.labels.is_empty())
    }

    /// `Σ weight · value`, the objective from the kernels' values.
    pub fn total(&self, values: &[f64]) -> f64 {
        self.configs
            .iter()
            .zip(values)
            .map(|(config, value)| config.weight() * value)
            .sum()
    }
}

/// The divergence of an entry; the ends of JSD and of the skewed forms are KL divergences.
fn divergence(config: &LossConfig) -> Option<AnyDivergence> {
    Some(match config {
        LossConfig::ForwardKl(_) => AnyDivergence::ForwardKl(ForwardKl),
        LossConfig::ReverseKl(_) => AnyDivergence::ReverseKl(ReverseKl),
        LossConfig::Jsd(c) if c.beta == 0.0 => AnyDivergence::ForwardKl(ForwardKl),
        LossConfig::Jsd(c) if c.beta == 1.0 => AnyDivergence::ReverseKl(ReverseKl),
        LossConfig::Jsd(c) => AnyDivergence::Jsd(Jsd { beta: c.beta }),
        LossConfig::SkewKl(c) if c.alpha == 0.0 => AnyDivergence::ForwardKl(ForwardKl),
        LossConfig::SkewKl(c) => AnyDivergence::SkewKl(SkewKl { alpha: c.alpha }),
        LossConfig::SkewReverseKl(c) if c.alpha == 0.0 => AnyDivergence::ReverseKl(ReverseKl),
        LossConfig::SkewReverseKl(c) => {
            AnyDivergence::SkewReverseKl(SkewReverseKl { alpha: c.alpha })
        }
        LossConfig::Tvd(_) => AnyDivergence::Tvd(Tvd),
        LossConfig::UniversalLogit(_)
        | LossConfig::CrossEntropy(_)
        | LossConfig::HiddenMse(_)
        | LossConfig::HiddenCosine(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(json: &str) -> Result<LossEntries, LossConfigError> {
        LossEntries::new(&serde_json::from_str::<Vec<LossConfig>>(json).unwrap())
    }

    #[test]
    fn terms_of_one_temperature_are_grouped() {
        let entries = entries(
            r#"[{"forward_kl":{"temperature":2}},{"cross_entropy":{}},{"hidden_mse":{"layers":[[0,0]]}},
                {"jsd":{"temperature":2}},{"tvd":{}}]"#,
        )
        .unwrap();
        assert_eq!(entries.count(), 5);
        assert_eq!(entries.groups.len(), 2);
        assert_eq!(
            entries.groups[0]
                .divergences
                .iter()
                .map(|t| t.slot)
                .collect::<Vec<_>>(),
            [0, 3]
        );
        assert_eq!(entries.groups[1].labels[0].slot, 1);
        assert!(entries.needs_teacher_logits() && entries.needs_labels());
        assert_eq!(entries.total(&[1.0, 2.0, 3.0, 4.0, 5.0]), 15.0);
    }

    #[test]
    fn nothing_to_learn_is_an_error() {
        assert_eq!(entries("[]").unwrap_err(), LossConfigError::Empty);
        assert_eq!(
            entries(r#"[{"tvd":{"weight":0}}]"#).unwrap_err(),
            LossConfigError::AllZero
        );
        assert!(entries(r#"[{"tvd":{"temperature":0}}]"#).is_err());
    }
}
