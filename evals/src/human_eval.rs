//! HumanEval (arXiv 2107.03374): a model completes functions, and tests say whether they are right.
//!
//! Prompts and stop strings are those of lm-evaluation-harness 0.4.13, task `humaneval`: the function's head as it is, no
//! chat template. Programs run in the [sandbox](crate::sandbox).

mod scores;
mod task;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use datasets::error::DataError;
use datasets::random::Random;
use model::generate::sampling::SamplingConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::{FinishReason, GenerationRequest};

use crate::sample_records::{RecordsError, SampleRecords};
use crate::sandbox::{Outcome, Sandbox, SandboxConfig, SandboxError, Verdict};
use crate::subject::{Asked, Subject, SubjectError, Written};
use scores::summed_up;
pub use scores::{HumanEval, PassAt};
use task::program;
pub use task::{Task, judge, read_tasks};

/// Any of these ends a completion: what begins in the first column is not of the function.
pub const STOP: [&str; 5] = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HumanEvalConfig {
    /// Completions of each task, 1 to 10000.
    #[schemars(range(min = 1, max = 10000))]
    pub samples: usize,
    /// 0 takes the likeliest token each time.
    #[schemars(range(min = 0, max = f32::MAX))]
    pub temperature: f64,
    /// The smallest set of most probable tokens whose probabilities reach this sum; 1 keeps all.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub top_p: f64,
    /// Most tokens of a completion.
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// The first so many tasks. All when left out.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// What programs may take.
    pub sandbox: SandboxConfig,
}

impl Default for HumanEvalConfig {
    fn default() -> Self {
        Self {
            samples: 1,
            temperature: 0.0,
            top_p: 1.0,
            max_tokens: 1024,
            limit: None,
            sandbox: SandboxConfig::default(),
        }
    }
}

impl HumanEvalConfig {
    /// Values that read well and make no sense: the key, and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        // As the draw takes it.
        let temperature = self.temperature as f32;
        let checks = [
            (
                (1..=10_000).contains(&self.samples),
                "samples",
                "lies between 1 and 10000",
            ),
            (
                self.samples <= 1 || temperature > 0.0,
                "samples",
                "beyond 1 are all the same at temperature 0",
            ),
            (
                temperature >= 0.0 && temperature.is_finite(),
                "temperature",
                "must be at least 0, and a number that 32 bits hold",
            ),
            (
                self.top_p as f32 > 0.0 && self.top_p <= 1.0,
                "top_p",
                "lies above 0 and is at most 1",
            ),
            (self.max_tokens > 0, "max_tokens", "must be at least 1"),
            (self.limit != Some(0), "limit", "must be at least 1"),
        ];
        let wrong = checks.into_iter().filter(|(holds, ..)| !holds);
        let sandbox = self.sandbox.check().into_iter();
        wrong
            .map(|(_, key, says)| (key.to_string(), format!("`{key}` {says}")))
            .chain(sandbox.map(|(key, says)| (format!("sandbox.{key}"), says)))
            .collect()
    }
}

/// A completion and what became of it; a line of the records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Among all samples of the evaluation, from 1.
    pub number: usize,
    pub correct: bool,
    pub task_id: String,
    /// Its number among those of the task, from 0.
    pub sample: usize,
    pub prompt: String,
    /// As the model wrote it, without the stop string.
    pub output: String,
    pub finish_reason: FinishReason,
    /// What was run, before the tests.
    pub code: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Debug, thiserror::Error)]
pub enum HumanEvalError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{path}, record {number}: no task of HumanEval: {why}", path = path.display())]
    Task {
        path: PathBuf,
        number: u64,
        why: String,
    },
    #[error("{path}: there is no task in it", path = .0.display())]
    NoTask(PathBuf),
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Has the model complete all tasks, several times if so configured. What is in `records` already is not written again.
/// `progress` hears how many samples are done, and says whether to go on; `None` where it does not.
///
/// # Errors
/// A prompt that does not fit into the model's context, what a server says, records that cannot be written, what the
/// sandbox says.
pub fn human_eval(
    subject: &Subject,
    tasks: &[Task],
    config: &HumanEvalConfig,
    seed: u64,
    sandbox: &Sandbox,
    mut records: SampleRecords<Sample>,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<HumanEval>, HumanEvalError> {
    let request = GenerationRequest {
        sampling: SamplingConfig {
            temperature: config.temperature as f32,
            top_p: config.top_p as f32,
            ..SamplingConfig::default()
        },
        max_new_tokens: config.max_tokens,
        stop: STOP.map(str::to_string).to_vec(),
        seed,
    };
    let each = config.samples;
    let place = |number: usize| (&tasks[(number - 1) / each], (number - 1) % each);
    let asked = (1..=tasks.len() * each).map(|number| {
        let (task, sample) = place(number);
        Asked {
            number,
            name: format!("task `{}`", task.task_id),
            text: &task.prompt,
            seed: Random::new(seed, &task.task_id, sample as u64, "sample").u64(),
        }
    });
    let asked: Vec<Asked> = asked.collect();
    let judged = |at: usize, written: Written| {
        let number = asked[at].number;
        let (task, sample) = place(number);
        let outcome = judge(sandbox, task, &written.text)?;
        Ok::<_, HumanEvalError>(Sample {
            number,
            correct: outcome.verdict == Verdict::Passed,
            task_id: task.task_id.clone(),
            sample,
            prompt: task.prompt.clone(),
            outcome,
            code: program(task, &written.text),
            output: written.text,
            finish_reason: written.finish_reason,
        })
    };
    match subject.write_all(&asked, &request, &mut records, &judged, progress)? {
        true => Ok(Some(summed_up(&records.finish()?, each))),
        false => Ok(None),
    }
}
