//! Questions with the prompts that they are asked with, and as tokens.

use std::collections::BTreeMap;
use std::ops::Range;

use datasets::error::DataError;
use datasets::random::Random;
use datasets::token_estimate::estimated_tokens;
use datasets::tokenizer::Tokenizer;

use super::{ChoiceConfig, ChoiceError, ChoiceTask, Question};
use crate::likelihood::{Item, Scored};
use crate::text_size::{GroupSize, TextSize, shared_tokens};

/// Questions with the prompts that they are asked with.
pub struct Asked {
    pub(super) task: ChoiceTask,
    /// The number of each in its data, from 1; those of a subject follow each other.
    pub(super) questions: Vec<(usize, Question)>,
    pub(super) few_examples: Vec<String>,
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

    /// The sequences of each question, and how many questions were cut.
    pub(super) fn items(
        &self,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<(Vec<Item>, u64), DataError> {
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

    /// How much text the questions are.
    pub fn size(&self) -> TextSize {
        let mut size = TextSize::default();
        for range in self.subject_ranges() {
            let questions = &self.questions[range];
            let prompts = questions
                .iter()
                .map(|(_, question)| question.prompt.as_str());
            let mut group = GroupSize {
                shared: shared_tokens(prompts),
                ..GroupSize::default()
            };
            size.read_here += group.shared;
            for (_, question) in questions {
                let prompt = estimated_tokens(&question.prompt);
                let lengths = question
                    .choices
                    .iter()
                    .map(|choice| estimated_tokens(choice));
                let (choices, scored) = (lengths.len(), lengths.clone().sum::<f64>());
                // Letters are scored behind one row of the prompt alone.
                let letters = question.choices.iter().all(|choice| choice.len() == 1);
                let rows = if letters { 1 } else { choices };
                let choice = if letters { 0.0 } else { scored };
                size.sequences += choices as u64;
                size.tokens += choices as f64 * prompt + scored;
                size.read_here += rows as f64 * (prompt - group.shared).max(0.0) + choice;
                size.scored_here += scored;
                group.longest = lengths
                    .map(|choice| prompt + choice)
                    .fold(group.longest, f64::max);
                group.rows += rows;
            }
            size.groups.push(group);
        }
        size
    }

    pub(super) fn subject_ranges(&self) -> Vec<Range<usize>> {
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
}
