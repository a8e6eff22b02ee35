//! Multiple choice by log-likelihood, as lm-eval does it: the choice that the model finds likeliest behind the prompt is
//! its pick. MMLU, KMMLU, HellaSwag and TruthfulQA.

mod hella_swag;
mod kmmlu;
mod mmlu;
mod question;
mod shots;
mod subjects;
#[cfg(test)]
mod tests;
mod truthful_qa;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use datasets::config::DataConfig;
use datasets::error::DataError;
use datasets::random::Random;
use datasets::tokenizer::Tokenizer;
use model::decoder::Decoder;
use model::step;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::accuracy::Accuracy;
use crate::likelihood::{Item, Scored, SharedPrefix, log_likelihoods, plan};
use crate::sample_records::{RecordsError, SampleRecords};
pub use question::{Question, Questions};

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

    /// Reads the questions of a data set.
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

/// Questions with the prompts that they are asked with.
pub struct Asked {
    task: ChoiceTask,
    /// The number of each in its data, from 1; those of a subject follow each other.
    questions: Vec<(usize, Question)>,
    few_examples: Vec<String>,
}

impl Asked {
    /// Draws the questions and puts description and worked examples before them.
    ///
    /// # Errors
    /// A subject without examples.
    pub fn new(
        task: ChoiceTask,
        questions: Vec<Question>,
        examples: &[Question],
        config: &ChoiceConfig,
    ) -> Result<Self, ChoiceError> {
        if config.shots > 0 && !task.has_subjects() {
            return Err(ChoiceError::NoSubjects { task });
        }
        let mut numbered: Vec<(usize, Question)> = (1..).zip(questions).collect();
        if let Some(limit) = config.limit.filter(|&limit| limit < numbered.len()) {
            let key =
                |number: usize| Random::new(config.seed, "eval", number as u64, "limit").u64();
            numbered.sort_by_key(|(number, _)| (key(*number), *number));
            numbered.truncate(limit);
        }
        numbered.sort_by(|(a, first), (b, second)| (&first.subject, a).cmp(&(&second.subject, b)));
        let mut few_examples = Vec::new();
        let mut starts: BTreeMap<String, String> = BTreeMap::new();
        for (_, question) in &mut numbered {
            if !starts.contains_key(&question.subject) {
                let subject = &question.subject;
                let of_subject = examples
                    .iter()
                    .filter(|example| example.subject == *subject);
                let chosen: Vec<&Question> = of_subject.take(config.shots).collect();
                match chosen.len() {
                    0 if config.shots > 0 => {
                        let subject = subject.clone();
                        return Err(ChoiceError::NoShots { subject });
                    }
                    found if found < config.shots => few_examples.push(subject.clone()),
                    _ => {}
                }
                let mut start = task.description(subject);
                for example in chosen {
                    start += &format!("{} {}\n\n", example.prompt, example.choices[example.answer]);
                }
                starts.insert(subject.clone(), start);
            }
            question.prompt.insert_str(0, &starts[&question.subject]);
        }
        Ok(Self {
            task,
            questions: numbered,
            few_examples,
        })
    }

    pub fn len(&self) -> usize {
        self.questions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// Scores a model. What is in `records` already is not computed again. `progress` hears how many questions are done,
    /// and says whether to go on; `None` where it does not.
    ///
    /// # Errors
    /// A tokenizer of another model; records that cannot be written.
    pub fn score(
        &self,
        decoder: &Decoder,
        tokenizer: &Tokenizer,
        mut records: SampleRecords<ChoiceRecord>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<ChoiceScores>, ChoiceError> {
        let context = decoder.config.max_position_embeddings;
        let (items, cut) = self.items(tokenizer, context)?;
        let rows = decoder.config.vocab_size;
        let ids = || items.iter().flatten().flat_map(|scored| &scored.ids);
        if let Some(&id) = ids().find(|&&id| id as usize >= rows) {
            return Err(ChoiceError::TokenOutOfRange { id, rows });
        }
        let is_known = |records: &SampleRecords<ChoiceRecord>, item: usize| {
            records.get(self.questions[item].0).is_some()
        };
        let mut done = 0;
        for group in plan(decoder, &items, &self.subject_ranges()) {
            let mut prefix = None;
            for batch in &group.batches {
                done += batch.len();
                if !batch.iter().all(|&item| is_known(&records, item)) {
                    let _span = step!("batch");
                    let started = Instant::now();
                    let prefix = prefix.get_or_insert_with(|| SharedPrefix::of(decoder, &group));
                    let of_batch: Vec<&Item> = batch.iter().map(|&item| &items[item]).collect();
                    let scores = log_likelihoods(decoder, &of_batch, prefix);
                    let seconds = started.elapsed().as_secs_f64() / batch.len() as f64;
                    let fresh = batch.iter().zip(scores);
                    let fresh = fresh.filter(|(item, _)| !is_known(&records, **item));
                    let fresh = fresh.map(|(&item, scores)| {
                        let number = self.questions[item].0;
                        match scores.iter().all(|score| score.is_finite()) {
                            true => Ok((number, self.record(item, scores, seconds))),
                            false => Err(ChoiceError::NoNumber { number }),
                        }
                    });
                    records.append(fresh.collect::<Result<_, _>>()?)?;
                }
                if !progress(done) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(self.scores(&records.finish()?, cut)))
    }

    /// The sequences of each question, and how many questions were cut.
    fn items(&self, tokenizer: &Tokenizer, context: usize) -> Result<(Vec<Item>, u64), DataError> {
        let mut cut = 0;
        let mut items = Vec::with_capacity(self.questions.len());
        for (_, question) in &self.questions {
            // Spaces at the end of a prompt belong to the first token behind it.
            let prompt = question.prompt.trim_end();
            let spaces = &question.prompt[prompt.len()..];
            let before = tokenizer.encode(prompt, true)?.len();
            let scored = question.choices.iter().map(|choice| {
                let ids = tokenizer.encode(&format!("{prompt}{spaces} {choice}"), true)?;
                let first = before.clamp(1, ids.len().saturating_sub(1).max(1));
                Ok(Scored { ids, first })
            });
            let scored: Vec<Scored> = scored.collect::<Result<_, DataError>>()?;
            cut += u64::from(scored.iter().any(|scored| scored.ids.len() > context + 1));
            items.push(
                scored
                    .into_iter()
                    .map(|scored| scored.within(context))
                    .collect(),
            );
        }
        Ok((items, cut))
    }

    fn subject_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (at, (_, question)) in self.questions.iter().enumerate() {
            match ranges.last_mut() {
                Some(last) if self.questions[last.start].1.subject == question.subject => {
                    last.end = at + 1;
                }
                _ => ranges.push(at..at + 1),
            }
        }
        ranges
    }

    fn record(&self, item: usize, log_likelihoods: Vec<f64>, seconds: f64) -> ChoiceRecord {
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

    fn scores(&self, records: &[ChoiceRecord], cut: u64) -> ChoiceScores {
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
