//! Multiple choice by log-likelihood, as lm-eval does it: the choice that the model finds likeliest behind the prompt is
//! its pick. MMLU, KMMLU, HellaSwag and TruthfulQA.

mod asked;
mod hella_swag;
mod kmmlu;
mod mmlu;
mod question;
mod score;
mod scores;
mod shots;
mod subjects;
#[cfg(test)]
mod tests;
mod truthful_qa;

use std::path::PathBuf;

use datasets::config::DataConfig;
use datasets::error::DataError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sample_records::RecordsError;
use crate::subject::SubjectError;
pub use asked::Asked;
pub use question::{Question, Questions};
pub use scores::{ChoiceRecord, ChoiceScores};

/// A set of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChoiceTask {
    Mmlu,
    Kmmlu,
    #[serde(rename = "hellaswag")]
    HellaSwag,
    TruthfulqaMc1,
}

/// How a set is asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChoiceConfig {
    /// Worked examples of the same subject before each question, in the order of their data.
    pub shots: usize,
    /// Ask so many questions only, drawn by `seed` from all.
    pub limit: Option<usize>,
    pub seed: u64,
}

#[derive(Debug, Error)]
pub enum ChoiceError {
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(
        "there are no worked examples of `{subject}`\nhint: the examples come from another data set than the questions; 0 shots need none"
    )]
    NoShots { subject: String },
    #[error("the questions of {} have no subjects to choose worked examples by", task.name())]
    NoSubjects { task: ChoiceTask },
    #[error(
        "token {id} lies beyond the model's {rows} tokens\nhint: the tokenizer belongs to another model"
    )]
    TokenOutOfRange { id: u32, rows: usize },
    #[error(
        "question {number}: the model gives no number\n\
         hint: its weights, or what it computes from them, overflow; is it whole?"
    )]
    NoNumber {
        /// In the data, from 1.
        number: usize,
    },
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl ChoiceTask {
    pub const ALL: [Self; 4] = [
        Self::Mmlu,
        Self::Kmmlu,
        Self::HellaSwag,
        Self::TruthfulqaMc1,
    ];

    /// As lm-eval calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmlu => "mmlu",
            Self::Kmmlu => "kmmlu",
            Self::HellaSwag => "hellaswag",
            Self::TruthfulqaMc1 => "truthfulqa_mc1",
        }
    }

    /// Whether questions have subjects, and so worked examples.
    pub fn has_subjects(self) -> bool {
        matches!(self, Self::Mmlu | Self::Kmmlu)
    }

    /// Reads the questions of a data set, its first where it has a limit.
    ///
    /// # Errors
    /// Files that cannot be read, records without the set's columns, data without questions.
    pub fn questions(self, config: &DataConfig<PathBuf>) -> Result<Questions, DataError> {
        let read = match self {
            Self::Mmlu => mmlu::question,
            Self::Kmmlu => kmmlu::question,
            Self::HellaSwag => hella_swag::question,
            Self::TruthfulqaMc1 => truthful_qa::question,
        };
        question::read_questions(config, read)
    }

    fn description(self, subject: &str) -> String {
        match self {
            Self::Mmlu => mmlu::description(subject),
            _ => String::new(),
        }
    }

    fn category(self, subject: &str) -> Option<&'static str> {
        match self {
            Self::Mmlu => subjects::category(subjects::MMLU, subject),
            Self::Kmmlu => subjects::category(subjects::KMMLU, subject),
            _ => None,
        }
    }
}
