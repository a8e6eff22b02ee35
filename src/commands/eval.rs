//! `distill eval`: one model, one task; or two models by what they answered.

mod choices;
mod compare;
mod perplexity;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::EvalArgs;
use crate::source::Cache;

pub fn run(arguments: EvalArgs) -> anyhow::Result<()> {
    if let [a, b] = arguments.compare.as_slice() {
        return compare::run(a, b, arguments.json);
    }
    let asked = (arguments.task, arguments.model(), &arguments.data);
    let (Some(task), Some(model), Some(data)) = asked else {
        // The command line asks for all three where nothing is compared.
        anyhow::bail!("`distill eval` needs a task, --model and --data");
    };
    let data = data.resolve(&Cache::from_env()?).context("--data")?;
    match task.choices() {
        None => perplexity::run(&arguments, &model, &data),
        Some(task) => choices::run(&arguments, task, &model, &data),
    }
}

/// Shown on stderr, and only where somebody watches.
fn bar(what: &str) -> anyhow::Result<ProgressBar> {
    let template = format!("{{wide_bar}} {{pos}}/{{len}} {what}, {{per_sec}}, {{eta}} left");
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(&template)?))
}
