//! HumanEval (arXiv 2107.03374): a model completes functions, and tests say whether they are right.
//!
//! Prompts and stop strings are those of lm-evaluation-harness 0.4.13, task `humaneval`: the function's head as it is, no
//! chat template. Programs run in the [sandbox](crate::sandbox).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use datasets::config::DataConfig;
use datasets::error::DataError;
use datasets::random::Random;
use datasets::records::read_batches;
use model::generate::sampling::SamplingConfig;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::{FinishReason, GenerationRequest, LocalTeacher, Prompt, TeacherError};

use crate::pass_at_k::pass_at_k;
use crate::sample_records::{RecordsError, SampleRecords};
use crate::sandbox::{Outcome, Program, Sandbox, SandboxConfig, SandboxError, Verdict};

/// Any of these ends a completion: what begins in the first column is not of the function.
const STOP: [&str; 5] = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"];
/// Completions that are written together, and then run.
const BATCH: usize = 8;
/// The k of pass@k, as far as there are samples.
const KS: [usize; 3] = [1, 10, 100];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HumanEvalConfig {
    /// Completions of each task, 1 to 10000.
    #[schemars(range(min = 1, max = 10000))]
    pub samples: usize,
    /// 0 takes the likeliest token each time.
    pub temperature: f64,
    /// The smallest set of most probable tokens whose probabilities reach this sum; 1 keeps all.
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

/// A record of HumanEval.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Task {
    pub task_id: String,
    pub prompt: String,
    pub entry_point: String,
    pub canonical_solution: String,
    pub test: String,
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HumanEval {
    pub tasks: usize,
    pub samples: usize,
    /// Samples that passed.
    pub passed: usize,
    /// Means over the tasks, by rising k.
    pub pass_at: Vec<PassAt>,
    /// Of pass@1, over the tasks.
    pub standard_error: f64,
    /// How many samples met which fate.
    pub verdicts: BTreeMap<String, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PassAt {
    pub k: usize,
    pub estimate: f64,
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
    #[error("task `{task_id}`")]
    Prompt {
        task_id: String,
        source: Box<TeacherError>,
    },
    #[error(transparent)]
    Teacher(#[from] TeacherError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// The first `limit` tasks, or fewer if the data has a lower limit of its own, of a file as OpenAI's package has it.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn read_tasks(
    data: &DataConfig<PathBuf>,
    limit: Option<usize>,
) -> Result<Vec<Task>, HumanEvalError> {
    let mut wrong = None;
    let mut tasks = Vec::new();
    let limit = [limit, data.limit].into_iter().flatten().min();
    let limit = limit.unwrap_or(usize::MAX);
    read_batches(data, &mut |batch| {
        for record in batch {
            if tasks.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
            match serde_json::from_str(&record.line) {
                Ok(task) => tasks.push(task),
                Err(error) => {
                    let why = error.to_string();
                    let (path, number) = (record.path.to_path_buf(), record.number);
                    wrong = Some(HumanEvalError::Task { path, number, why });
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match (wrong, tasks.is_empty()) {
        (Some(wrong), _) => Err(wrong),
        (None, true) => Err(HumanEvalError::NoTask(data.source.clone())),
        (None, false) => Ok(tasks),
    }
}

/// Runs a completion against the tests of its task.
///
/// # Errors
/// Those of the sandbox.
pub fn judge(sandbox: &Sandbox, task: &Task, completion: &str) -> Result<Outcome, SandboxError> {
    let code = program(task, completion);
    // By the module, for a function may be called as a builtin is.
    let entry_point = format!("__import__('__main__').{}", task.entry_point);
    let checks = format!("{}\ncheck({entry_point})\n", task.test);
    sandbox.run(Program {
        code: &code,
        checks: &checks,
    })
}

fn program(task: &Task, completion: &str) -> String {
    format!("{}{completion}\n", task.prompt)
}

/// Has the model complete all tasks, several times if so configured. What is in `records` already is not written again.
/// `progress` hears how many samples are done, and says whether to go on; `None` where it does not.
///
/// # Errors
/// A prompt that does not fit into the model's context, records that cannot be written, what the sandbox says.
pub fn human_eval(
    model: &LocalTeacher,
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
    let prompt_ids = tasks.iter().map(|task| {
        let prompt = Prompt::Text(task.prompt.clone());
        let ids = model.prompt_ids(None, &prompt);
        ids.map_err(|source| {
            let (task_id, source) = (task.task_id.clone(), Box::new(source));
            HumanEvalError::Prompt { task_id, source }
        })
    });
    let prompt_ids = prompt_ids.collect::<Result<Vec<_>, _>>()?;
    let each = config.samples;
    let wanted: Vec<usize> = (1..=tasks.len() * each).collect();
    for batch in wanted.chunks(BATCH) {
        let is_known = |number: &usize| records.get(*number).is_some();
        if !batch.iter().all(is_known) {
            let asked: Vec<(usize, &Task, usize)> = (batch.iter())
                .map(|&number| (number, &tasks[(number - 1) / each], (number - 1) % each))
                .collect();
            let prompts: Vec<Vec<u32>> = (batch.iter())
                .map(|number| prompt_ids[(number - 1) / each].clone())
                .collect();
            let seed_of = |task: &Task, sample: usize| {
                Random::new(seed, &task.task_id, sample as u64, "sample").u64()
            };
            let seeds: Vec<u64> = (asked.iter())
                .map(|(_, task, sample)| seed_of(task, *sample))
                .collect();
            let completions = model.generate_seeded(&prompts, &seeds, &request)?;
            let samples = asked.par_iter().zip(completions);
            let samples = samples.filter(|((number, ..), _)| !is_known(number));
            let samples = samples.map(|(&(number, task, sample), completion)| {
                let outcome = judge(sandbox, task, &completion.text)?;
                let sample = Sample {
                    number,
                    correct: outcome.verdict == Verdict::Passed,
                    task_id: task.task_id.clone(),
                    sample,
                    prompt: task.prompt.clone(),
                    outcome,
                    code: program(task, &completion.text),
                    output: completion.text,
                    finish_reason: completion.finish_reason,
                };
                Ok((number, sample))
            });
            let samples = samples.collect::<Result<Vec<_>, SandboxError>>()?;
            records.append(samples)?;
        }
        if !progress(*batch.last().unwrap_or(&0)) {
            return Ok(None);
        }
    }
    Ok(Some(summed_up(&records.finish()?, each)))
}

/// `each` samples of every task, one task after the other.
fn summed_up(samples: &[Sample], each: usize) -> HumanEval {
    let right: Vec<usize> = (samples.chunks(each))
        .map(|of_task| of_task.iter().filter(|sample| sample.correct).count())
        .collect();
    let tasks = right.len() as f64;
    let mean = |k: usize| {
        let estimates = right.iter().map(|c| pass_at_k(each, *c, k));
        estimates.sum::<f64>() / tasks
    };
    let ks = KS.into_iter().filter(|k| *k <= each);
    let pass_at = ks.map(|k| {
        let estimate = mean(k);
        PassAt { k, estimate }
    });
    let first = mean(1);
    let squares = right
        .iter()
        .map(|c| (pass_at_k(each, *c, 1) - first).powi(2));
    let mut verdicts = BTreeMap::new();
    for sample in samples {
        *verdicts
            .entry(sample.outcome.verdict.described())
            .or_default() += 1;
    }
    HumanEval {
        tasks: right.len(),
        samples: samples.len(),
        passed: right.iter().sum(),
        standard_error: (squares.sum::<f64>() / (tasks - 1.0).max(1.0) / tasks).sqrt(),
        pass_at: pass_at.collect(),
        verdicts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(task_id: &str, verdict: Verdict) -> Sample {
        Sample {
            number: 1,
            correct: verdict == Verdict::Passed,
            task_id: task_id.into(),
            sample: 0,
            prompt: String::new(),
            output: String::new(),
            finish_reason: FinishReason::Stop,
            code: String::new(),
            outcome: Outcome {
                verdict,
                stdout: String::new(),
                stderr: String::new(),
                output_cut: false,
                seconds: 0.0,
            },
        }
    }

    #[test]
    fn estimates_are_means_over_tasks() {
        let verdicts = [Verdict::Passed, Verdict::TimedOut];
        let samples: Vec<Sample> = (0..20)
            .map(|i| sample(&format!("{}", i / 10), verdicts[usize::from(i > 0)].clone()))
            .collect();
        let found = summed_up(&samples, 10);
        assert_eq!((found.tasks, found.samples, found.passed), (2, 20, 1));
        let pass_at: Vec<(usize, f64)> = found.pass_at.iter().map(|p| (p.k, p.estimate)).collect();
        assert_eq!(pass_at[0].0, 1);
        assert!((pass_at[0].1 - 0.05).abs() < 1e-12, "{pass_at:?}");
        assert_eq!(pass_at[1], (10, 0.5));
        // The sample standard deviation of 0.1 and 0 over the root of 2.
        assert!((found.standard_error - 0.05).abs() < 1e-12);
        assert_eq!(found.verdicts["timed out"], 19);
    }

    #[test]
    fn records_are_read_back() {
        let kept = sample("a", Verdict::Killed { signal: 9 });
        let line = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Sample>(&line).unwrap(), kept);
    }

    #[test]
    fn values_that_make_no_sense_are_told() {
        assert_eq!(HumanEvalConfig::default().check(), []);
        let wrong = HumanEvalConfig {
            samples: 2,
            top_p: 0.0,
            max_tokens: 0,
            limit: Some(0),
            sandbox: SandboxConfig {
                memory: 1,
                ..SandboxConfig::default()
            },
            ..HumanEvalConfig::default()
        };
        let keys: Vec<String> = wrong.check().into_iter().map(|(key, _)| key).collect();
        let expected = ["samples", "top_p", "max_tokens", "limit", "sandbox.memory"];
        assert_eq!(keys, expected);
    }
}
