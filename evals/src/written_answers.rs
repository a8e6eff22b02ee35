//! Questions whose answers are written and then looked for in the text, as lm-eval asks them: GSM8K and MATH.

mod config;
mod equivalence;
mod gsm8k;
mod math;
mod problem;
mod scores;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use datasets::config::DataConfig;
use datasets::error::DataError;
use datasets::random::Random;
use model::generate::sampling::SamplingConfig;
use serde::{Deserialize, Serialize};
use teacher::{FinishReason, GenerationRequest};
use thiserror::Error;

use crate::sample_records::{RecordsError, SampleRecords};
use crate::subject::{Asked, Subject, SubjectError, Written};
use crate::text_size::TextSize;
pub use config::AnswerConfig;
pub use problem::Problem;
use problem::read_problems;
pub use scores::{AnswerScores, Verdicts};

/// A set of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerTask {
    Gsm8k,
    Math,
}

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Of the question in its data, from 1.
    pub number: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    pub prompt: String,
    /// As the model wrote it, without the stop string.
    pub output: String,
    pub finish_reason: FinishReason,
    /// The right answer.
    pub expected: String,
    /// What the strict rule finds; none where it finds nothing.
    pub strict_answer: Option<String>,
    /// What the flexible rule finds.
    pub answer: Option<String>,
    pub strict_correct: bool,
    /// By the flexible rule.
    pub correct: bool,
    pub seconds: f64,
}

#[derive(Debug, Error)]
pub enum AnswerError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(
        "there are {found} worked examples, and {wanted} are wanted before each question\n\
         hint: name more of them, or set `shots` lower; 0 shots need none"
    )]
    FewShots { found: usize, wanted: usize },
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// What two rules find in a text.
struct Found {
    strict: Option<String>,
    flexible: Option<String>,
    strict_correct: bool,
    correct: bool,
}

impl AnswerTask {
    pub const ALL: [Self; 2] = [Self::Gsm8k, Self::Math];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gsm8k => "gsm8k",
            Self::Math => "math",
        }
    }

    /// Worked examples unless somebody asks for another number: lm-eval's.
    pub fn usual_shots(self) -> usize {
        match self {
            Self::Gsm8k => 5,
            Self::Math => 0,
        }
    }

    /// Reads the questions of a data set.
    ///
    /// # Errors
    /// Files that cannot be read, records without the set's columns, data without questions.
    pub fn problems(self, config: &DataConfig<PathBuf>) -> Result<Vec<Problem>, DataError> {
        match self {
            Self::Gsm8k => read_problems(config, gsm8k::problem),
            Self::Math => read_problems(config, math::problem),
        }
    }

    fn stop(self) -> &'static [&'static str] {
        match self {
            Self::Gsm8k => &gsm8k::STOP,
            Self::Math => &math::STOP,
        }
    }

    fn prompt(self, question: &str) -> String {
        match self {
            Self::Gsm8k => gsm8k::prompt(question),
            Self::Math => math::prompt(question),
        }
    }

    fn look(self, output: &str, expected: &str) -> Found {
        match self {
            Self::Gsm8k => gsm8k::look(output, expected),
            Self::Math => math::look(output, expected),
        }
    }
}

/// Questions with the prompts that they are asked with.
pub struct AskedProblems {
    task: AnswerTask,
    /// The number of each in its data, from 1, the question and its prompt.
    problems: Vec<(usize, Problem, String)>,
    max_tokens: usize,
}

impl AskedProblems {
    /// Draws the questions and puts the worked examples before them: the same before each.
    ///
    /// # Errors
    /// Fewer examples than are wanted.
    pub fn new(
        task: AnswerTask,
        problems: Vec<Problem>,
        examples: &[Problem],
        config: &AnswerConfig,
        seed: u64,
    ) -> Result<Self, AnswerError> {
        let wanted = config.shots(task);
        if examples.len() < wanted {
            let found = examples.len();
            return Err(AnswerError::FewShots { found, wanted });
        }
        let before: String = (examples[..wanted].iter())
            .map(|example| format!("{} {}\n\n", task.prompt(&example.question), example.worked))
            .collect();
        let mut numbered: Vec<(usize, Problem)> = (1..).zip(problems).collect();
        if let Some(limit) = config.limit.filter(|&limit| limit < numbered.len()) {
            let key = |number: usize| Random::new(seed, "eval", number as u64, "limit").u64();
            numbered.sort_by_key(|(number, _)| (key(*number), *number));
            numbered.truncate(limit);
            numbered.sort_by_key(|(number, _)| *number);
        }
        let prompted = numbered.into_iter().map(|(number, problem)| {
            let prompt = format!("{before}{}", task.prompt(&problem.question));
            (number, problem, prompt)
        });
        Ok(Self {
            task,
            problems: prompted.collect(),
            max_tokens: config.max_tokens,
        })
    }

    pub fn len(&self) -> usize {
        self.problems.len()
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// How much text the prompts are.
    pub fn size(&self) -> TextSize {
        let prompts = self.problems.iter().map(|(_, _, prompt)| prompt.as_str());
        TextSize::of_prompts(prompts, 1)
    }

    /// Has a model answer. What is in `records` already is not asked again. `progress` hears how many questions are done,
    /// and says whether to go on; `None` where it does not.
    ///
    /// # Errors
    /// A prompt that does not fit into the model's context; what a server says; records that cannot be written.
    pub fn score(
        &self,
        subject: &Subject,
        mut records: SampleRecords<AnswerRecord>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<AnswerScores>, AnswerError> {
        let request = GenerationRequest {
            sampling: SamplingConfig {
                temperature: 0.0,
                ..SamplingConfig::default()
            },
            max_new_tokens: self.max_tokens,
            stop: self.task.stop().iter().map(ToString::to_string).collect(),
            seed: 0,
        };
        let asked = self.problems.iter().map(|(number, _, prompt)| Asked {
            number: *number,
            name: format!("question {number}"),
            text: prompt,
            seed: 0,
        });
        let asked: Vec<Asked> = asked.collect();
        let judge = |at: usize, written: Written| Ok::<_, AnswerError>(self.record(at, written));
        match subject.write_all(&asked, &request, &mut records, &judge, progress)? {
            true => Ok(Some(AnswerScores::of(&records.finish()?))),
            false => Ok(None),
        }
    }

    fn record(&self, at: usize, written: Written) -> AnswerRecord {
        let (number, problem, prompt) = &self.problems[at];
        let found = self.task.look(&written.text, &problem.expected);
        AnswerRecord {
            number: *number,
            subject: problem.subject.clone(),
            level: problem.level.clone(),
            prompt: prompt.clone(),
            output: written.text,
            finish_reason: written.finish_reason,
            expected: problem.expected.clone(),
            strict_answer: found.strict,
            answer: found.flexible,
            strict_correct: found.strict_correct,
            correct: found.correct,
            seconds: written.seconds,
        }
    }
}
