//! What the row kernel is compiled for: the listed losses as constants.

use crate::loss::divergence::AnyDivergence;
use crate::loss::entries::{DivergenceTerm, Group, LossEntries};

/// An `f32` that can be a part of a kernel's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Constant(u32);

impl Constant {
    fn new(value: f64) -> Self {
        Self((value as f32).to_bits())
    }

    pub fn value(self) -> f32 {
        f32::from_bits(self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub groups: Vec<PlanGroup>,
    /// Of every group.
    pub terms: Vec<PlanTerm>,
    pub labels: Vec<PlanLabel>,
    /// Listed losses, those that are computed elsewhere included.
    pub slots: usize,
    pub teacher: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlanGroup {
    pub inverse_temperature: Constant,
    pub teacher: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    ForwardKl,
    ReverseKl,
    Jsd,
    SkewKl,
    SkewReverseKl,
    Tvd,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlanTerm {
    pub group: usize,
    pub slot: usize,
    pub kind: Kind,
    /// β or α; 0 where there is none.
    pub share: Constant,
    /// 1 − `share`.
    pub rest: Constant,
    /// `Σ q·h` where it is known before the row is read.
    pub known_mean: Option<Constant>,
    pub value_factor: Constant,
    pub gradient_factor: Constant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlanLabel {
    pub group: usize,
    pub slot: usize,
    pub weight: Constant,
}

impl Plan {
    pub fn new(entries: &LossEntries) -> Self {
        let (mut terms, mut labels) = (Vec::new(), Vec::new());
        for (group, of_group) in entries.groups.iter().enumerate() {
            let divergences = of_group.divergences.iter();
            terms.extend(divergences.map(|term| plan_term(group, term)));
            labels.extend(of_group.labels.iter().map(|term| PlanLabel {
                group,
                slot: term.slot,
                weight: Constant::new(term.weight),
            }));
        }
        Self {
            groups: entries.groups.iter().map(plan_group).collect(),
            terms,
            labels,
            slots: entries.count(),
            teacher: entries.needs_teacher_logits(),
        }
    }

    /// Whether some term has to read the row once more before its gradient is known.
    pub fn needs_means(&self) -> bool {
        self.terms.iter().any(|term| term.known_mean.is_none())
    }

    /// Whether the row kernel computes this loss.
    pub fn has(&self, slot: usize) -> bool {
        let mut slots = self.terms.iter().map(|term| term.slot);
        slots.any(|s| s == slot) || self.labels.iter().any(|term| term.slot == slot)
    }
}

fn plan_group(group: &Group) -> PlanGroup {
    PlanGroup {
        inverse_temperature: Constant::new(1.0 / group.temperature),
        teacher: !group.divergences.is_empty(),
    }
}

fn plan_term(group: usize, term: &DivergenceTerm) -> PlanTerm {
    let (kind, share) = match term.divergence {
        AnyDivergence::ForwardKl(_) => (Kind::ForwardKl, 0.0),
        AnyDivergence::ReverseKl(_) => (Kind::ReverseKl, 0.0),
        AnyDivergence::Jsd(d) => (Kind::Jsd, d.beta),
        AnyDivergence::SkewKl(d) => (Kind::SkewKl, d.alpha),
        AnyDivergence::SkewReverseKl(d) => (Kind::SkewReverseKl, d.alpha),
        AnyDivergence::Tvd(_) => (Kind::Tvd, 0.0),
    };
    PlanTerm {
        group,
        slot: term.slot,
        kind,
        share: Constant::new(share),
        rest: Constant::new(1.0 - share),
        known_mean: term.divergence.known_mean().map(Constant::new),
        value_factor: Constant::new(term.value_factor),
        gradient_factor: Constant::new(term.gradient_factor),
    }
}
