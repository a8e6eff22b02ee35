//! The share of right answers, by both rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use teacher::FinishReason;

use super::AnswerRecord;
use crate::accuracy::Accuracy;

/// Answers judged by both rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// lm-eval's first rule: `#### N` of gsm8k, what stands between dollars of math.
    pub strict: Accuracy,
    /// The last number of gsm8k, the last box of math.
    pub flexible: Accuracy,
}

/// The scores of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerScores {
    #[serde(flatten)]
    pub all: Verdicts,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub subjects: Vec<(String, Verdicts)>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub levels: Vec<(String, Verdicts)>,
    /// Answers that end at `max_tokens`, or where the model's context does.
    pub unfinished: u64,
}

impl Verdicts {
    fn add(&mut self, record: &AnswerRecord) {
        self.strict.add(record.strict_correct);
        self.flexible.add(record.correct);
    }
}

impl AnswerScores {
    pub(super) fn of(records: &[AnswerRecord]) -> Self {
        let mut all = Verdicts::default();
        records.iter().for_each(|record| all.add(record));
        let is_cut = |record: &&AnswerRecord| record.finish_reason == FinishReason::Length;
        Self {
            all,
            subjects: by(records, |record| record.subject.as_ref()),
            levels: by(records, |record| record.level.as_ref()),
            unfinished: records.iter().filter(is_cut).count() as u64,
        }
    }
}

fn by(
    records: &[AnswerRecord],
    name: fn(&AnswerRecord) -> Option<&String>,
) -> Vec<(String, Verdicts)> {
    let mut found: BTreeMap<String, Verdicts> = BTreeMap::new();
    for record in records {
        if let Some(name) = name(record) {
            found.entry(name.clone()).or_default().add(record);
        }
    }
    found.into_iter().collect()
}
