//! The share of questions that are answered right.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Answers counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accuracy {
    pub questions: u64,
    pub correct: u64,
}

/// As it is written: with what follows from the counts.
#[derive(Serialize, Deserialize)]
struct Written {
    questions: u64,
    correct: u64,
    #[serde(skip_deserializing)]
    accuracy: f64,
    #[serde(skip_deserializing)]
    standard_error: Option<f64>,
}

impl Accuracy {
    pub fn add(&mut self, correct: bool) {
        self.questions += 1;
        self.correct += u64::from(correct);
    }

    /// 0 where nothing was asked.
    pub fn share(&self) -> f64 {
        self.correct as f64 / self.questions.max(1) as f64
    }

    /// Of the share, as if questions were drawn independently: √(p(1 − p)/(n − 1)). None of a single question.
    pub fn standard_error(&self) -> Option<f64> {
        let share = self.share();
        let others = self.questions.checked_sub(1).filter(|&others| others > 0)?;
        Some((share * (1.0 - share) / others as f64).sqrt())
    }
}

impl FromIterator<bool> for Accuracy {
    fn from_iter<I: IntoIterator<Item = bool>>(verdicts: I) -> Self {
        let mut accuracy = Self::default();
        verdicts
            .into_iter()
            .for_each(|correct| accuracy.add(correct));
        accuracy
    }
}

impl Serialize for Accuracy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written {
            questions: self.questions,
            correct: self.correct,
            accuracy: self.share(),
            standard_error: self.standard_error(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Accuracy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written {
            questions, correct, ..
        } = Written::deserialize(deserializer)?;
        Ok(Self { questions, correct })
    }
}
