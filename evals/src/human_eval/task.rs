//! The tasks of HumanEval, and completions of them run against their tests.

use std::ops::ControlFlow;
use std::path::PathBuf;

use datasets::config::DataConfig;
use datasets::records::read_batches;
use serde::Deserialize;

use super::HumanEvalError;
use crate::sandbox::{Outcome, Program, Sandbox, SandboxError};

/// A record of HumanEval.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Task {
    pub task_id: String,
    pub prompt: String,
    pub entry_point: String,
    pub canonical_solution: String,
    pub test: String,
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

pub(super) fn program(task: &Task, completion: &str) -> String {
    format!("{}{completion}\n", task.prompt)
}
