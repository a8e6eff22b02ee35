//! What came of each question, and of all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Asked;
use crate::accuracy::Accuracy;

/// What came of one question. Choices count from 0, log-likelihoods are in nats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceRecord {
    /// Of the question in its data, from 1.
    pub number: usize,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    pub prompt: String,
    pub choices: Vec<String>,
    pub log_likelihoods: Vec<f64>,
    pub pick: usize,
    /// The likeliest choice a character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick_normalised: Option<usize>,
    pub answer: usize,
    pub correct: bool,
    pub seconds: f64,
}

/// The scores of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceScores {
    /// Over all questions.
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Of the choice that is likeliest a character, for sets whose choices differ in length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalised: Option<Accuracy>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub categories: Vec<(String, Accuracy)>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub subjects: Vec<(String, Accuracy)>,
    /// Subjects with fewer worked examples than were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub few_examples: Vec<String>,
    /// Questions whose prompt was cut from the left to fit the model's context.
    pub cut: u64,
}

impl Asked {
    pub(super) fn record(
        &self,
        item: usize,
        log_likelihoods: Vec<f64>,
        seconds: f64,
    ) -> ChoiceRecord {
        let (number, question) = &self.questions[item];
        let pick = largest(log_likelihoods.iter().copied());
        let letters = question
            .choices
            .iter()
            .map(|choice| choice.chars().count().max(1) as f64);
        let a_letter = log_likelihoods
            .iter()
            .zip(letters)
            .map(|(sum, letters)| sum / letters);
        ChoiceRecord {
            number: *number,
            subject: question.subject.clone(),
            prompt: question.prompt.clone(),
            choices: question.choices.clone(),
            pick,
            pick_normalised: (!self.task.has_subjects()).then(|| largest(a_letter)),
            log_likelihoods,
            answer: question.answer,
            correct: pick == question.answer,
            seconds,
        }
    }

    pub(super) fn scores(&self, records: &[ChoiceRecord], cut: u64) -> ChoiceScores {
        let mut subjects: BTreeMap<&str, Accuracy> = BTreeMap::new();
        let mut categories: BTreeMap<&str, Accuracy> = BTreeMap::new();
        for record in records.iter().filter(|_| self.task.has_subjects()) {
            let subject = record.subject.as_str();
            subjects.entry(subject).or_default().add(record.correct);
            if let Some(category) = self.task.category(subject) {
                categories.entry(category).or_default().add(record.correct);
            }
        }
        let named = |table: BTreeMap<&str, Accuracy>| {
            let rows = table.into_iter();
            rows.map(|(name, accuracy)| (name.to_string(), accuracy))
                .collect()
        };
        let normalised = records
            .iter()
            .filter_map(|r| Some(r.pick_normalised? == r.answer));
        let normalised: Accuracy = normalised.collect();
        ChoiceScores {
            accuracy: records.iter().map(|record| record.correct).collect(),
            normalised: (normalised.questions > 0).then_some(normalised),
            categories: named(categories),
            subjects: named(subjects),
            few_examples: self.few_examples.clone(),
            cut,
        }
    }
}

/// The place of the largest number, the first of several.
fn largest(numbers: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (at, number) in numbers.enumerate() {
        if number > best.1 {
            best = (at, number);
        }
    }
    best.0
}
