//! What a stage asks of a server: requests, tokens, money.

use serde::Serialize;

use super::known::{BYTES_PER_TOKEN, DataFacts, Facts, Known};
use super::stage::{is_remote, written};
use crate::recipe::{Action, Mode, Recipe};
use crate::source::ModelSource;

/// Tokens that a template and a system prompt add to a question, about.
const TEMPLATE_TOKENS: f64 = 60.0;

/// Upper estimates: answers that are stored already are asked for by none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Requests {
    pub requests: u64,
    pub input_tokens: u64,
    /// If every answer is as long as it may be.
    pub output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
    /// At least so long, where the server limits requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least_seconds: Option<f64>,
}

/// What the stage asks of a remote model; nothing where it asks none.
///
/// # Errors
/// Records that are not known, and what would tell them.
pub fn requests(recipe: &Recipe, facts: &Facts, stage: usize) -> Known<Option<Requests>> {
    let action = &recipe.stages[stage].action;
    let Some((name, budget)) = action.asks().filter(|_| is_remote(recipe, action)) else {
        return Ok(None);
    };
    let data = |key: &str| facts.data(stage, key);
    let (requests, read) = match action {
        Action::Generate(generate) => {
            let data = data("prompts")?;
            let turns = u64::from(generate.turns) * 2 - 1;
            let each = match &generate.mode {
                Mode::Answer => u64::from(generate.candidates) * turns,
                _ => 1,
            };
            (records(&data)? * each, tokens_each(&data))
        }
        Action::Rate(rate) => {
            let data = data("answers.0")?;
            let answers = records(&data)? * rate.answers.len() as u64;
            (answers * rate.aspects.len() as u64, tokens_each(&data))
        }
        Action::Judge(_) => {
            let data = data("a")?;
            // Both orders.
            (2 * records(&data)?, 2.0 * tokens_each(&data))
        }
        Action::Capture(capture) => {
            let key = capture
                .data
                .names()
                .next()
                .map(|(key, _)| key)
                .unwrap_or_default();
            let data = data(&key)?;
            let pieces = data
                .tokens()
                .div_ceil(capture.sequence_length.max(1) as u64);
            (pieces.max(data.samples.unwrap_or(0)), tokens_each(&data))
        }
        Action::Distill(distill) => {
            let train = &distill.train;
            let steps = train.steps.ok_or("`steps` are not given")?;
            let rows = train.rows_per_step() as u64;
            (steps * rows, train.sequence_length as f64)
        }
        Action::Exercises(_) => {
            let data = data("topics")?;
            (records(&data)?, tokens_each(&data))
        }
        Action::CodeQuality(_) => {
            let data = data("data")?;
            (records(&data)?, tokens_each(&data))
        }
        _ => return Ok(None),
    };
    let input_tokens = (requests as f64 * (read + TEMPLATE_TOKENS)) as u64;
    let output_tokens = requests * u64::from(written(action));
    let ModelSource::Remote(remote) = &recipe.models[name].source else {
        return Ok(None);
    };
    let dollars = remote.price.map(|price| {
        let all = (input_tokens as f64 * price.input + output_tokens as f64 * price.output) / 1e6;
        budget.dollars.map_or(all, |most| all.min(most))
    });
    let at_least_seconds =
        (remote.requests_per_minute).map(|minute| 60.0 * requests as f64 / minute);
    Ok(Some(Requests {
        requests,
        input_tokens,
        output_tokens,
        dollars,
        at_least_seconds,
    }))
}

fn records(data: &DataFacts) -> Known<u64> {
    let unknown = || "how many records the data has: `limit` would tell".to_string();
    data.samples.ok_or_else(unknown)
}

fn tokens_each(data: &DataFacts) -> f64 {
    let bytes = data.text_bytes.unwrap_or(data.bytes) as f64;
    bytes / data.samples.unwrap_or(1).max(1) as f64 / BYTES_PER_TOKEN
}
