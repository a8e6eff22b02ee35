//! λ that rises when the held-out loss does (DistiLLM, arXiv 2402.03898, section 3.2).
//!
//! The reference code compares with the loss at the last rise, at first that before training, and never lowers it; a
//! student that starts badly, such as a pruned one, would then never have its share raised. Here it is the lowest loss
//! since the last rise, which is the same where the loss does not fall.

use serde::{Deserialize, Serialize};

use super::config::Adaptive;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveShare {
    #[serde(with = "crate::exact")]
    pub share: f64,
    /// The held-out loss that the next is compared with; `None` before the first.
    #[serde(with = "crate::exact::option")]
    pub reference: Option<f64>,
}

impl AdaptiveShare {
    pub fn new(share: f64) -> Self {
        Self {
            share,
            reference: None,
        }
    }

    /// Takes note of a held-out loss, nats a token.
    pub fn evaluated(&mut self, rule: &Adaptive, loss: f64) {
        match self.reference {
            Some(reference) if loss >= reference + rule.tolerance && loss > reference => {
                self.share = (self.share + rule.increment).min(1.0);
                self.reference = Some(loss);
            }
            reference => self.reference = Some(reference.map_or(loss, |lowest| lowest.min(loss))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_rises_with_the_loss_and_not_above_one() {
        let rule = Adaptive {
            increment: 0.25,
            tolerance: 0.1,
        };
        let mut share = AdaptiveShare::new(0.5);
        let mut after = |loss| {
            share.evaluated(&rule, loss);
            share.share
        };
        // The first is what others are compared with; a fall lowers it; small rises add up.
        let losses = [5.0, 3.0, 3.06, 3.11, 3.15, 3.3, 9.0, 2.0];
        let expected = [0.5, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0];
        assert_eq!(losses.map(&mut after), expected);
    }
}
