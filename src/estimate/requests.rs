//! What a stage asks of a model, and of a server: requests, tokens, money.

use datasets::token_estimate::estimated_tokens;
use serde::Serialize;
use teacher::synth::prompt::PromptFile;

use super::evaluated;
use super::known::{Facts, Known};
use super::stage::is_remote;
use crate::recipe::{Action, Mode, Recipe};
use crate::source::ModelSource;

/// Tokens that a chat template and a system prompt add to a question, about, where no file tells.
pub const TEMPLATE_TOKENS: f64 = 30.0;
/// In English, about.
pub const TOKENS_PER_WORD: f64 = 4.0 / 3.0;
/// Tokens of a record where nothing tells.
pub const RECORD_TOKENS: f64 = 256.0;

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

/// What a stage has written, at most: by its teacher, or by each model of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// A request each, where a server gives one answer at a time.
    pub texts: u64,
    /// Tokens that are read for all of them.
    pub read: f64,
    /// Tokens of a prompt, with what a conversation has before it.
    pub prompt: usize,
    /// Tokens that all prompts begin with.
    pub shared: usize,
    /// Tokens of a text.
    pub new: u64,
}

impl Asked {
    /// So many texts, each for a prompt of so many tokens.
    pub fn alike(texts: u64, prompt: f64, new: impl Into<u64>) -> Self {
        Self {
            texts,
            read: texts as f64 * prompt,
            prompt: prompt.ceil() as usize,
            shared: 0,
            new: new.into(),
        }
    }
}

/// What the stage asks of remote models; nothing where it asks none.
///
/// # Errors
/// Records that are not known, and what would tell them.
pub fn requests(recipe: &Recipe, facts: &Facts, stage: usize) -> Known<Option<Requests>> {
    let action = &recipe.stages[stage].action;
    let (names, budget): (Vec<&str>, _) = match action {
        Action::Eval(eval) => {
            let names = eval.inputs.models.iter().map(String::as_str);
            (names.collect(), eval.inputs.budget)
        }
        _ => match action.asks() {
            Some((name, budget)) => (vec![name], Some(*budget)),
            None => return Ok(None),
        },
    };
    let servers = names.iter().filter_map(|name| {
        let source = recipe.models.get(*name).map(|model| &model.source);
        match source {
            Some(ModelSource::Remote(remote)) => Some(remote),
            _ => None,
        }
    });
    let mut servers = servers.peekable();
    if servers.peek().is_none() {
        return Ok(None);
    }
    let Some(asked) = asked(recipe, facts, stage)? else {
        return Ok(None);
    };
    let most = budget.and_then(|budget| budget.dollars);
    let mut all = Requests {
        requests: 0,
        input_tokens: 0,
        output_tokens: 0,
        dollars: None,
        at_least_seconds: None,
    };
    for remote in servers {
        let (input, output) = (asked.read as u64, asked.texts.saturating_mul(asked.new));
        all.requests = all.requests.saturating_add(asked.texts);
        all.input_tokens = all.input_tokens.saturating_add(input);
        all.output_tokens = all.output_tokens.saturating_add(output);
        if let Some(price) = remote.price {
            let cost = (input as f64 * price.input + output as f64 * price.output) / 1e6;
            let cost = most.map_or(cost, |most| cost.min(most));
            all.dollars = Some(all.dollars.unwrap_or(0.0) + cost);
        }
        if let Some(minute) = remote.requests_per_minute {
            let seconds = 60.0 * asked.texts as f64 / minute;
            all.at_least_seconds = Some(all.at_least_seconds.unwrap_or(0.0) + seconds);
        }
    }
    Ok(Some(all))
}

/// What the stage has written; nothing where it has nothing written.
///
/// # Errors
/// Records that are not known, and what would tell them.
pub fn asked(recipe: &Recipe, facts: &Facts, stage: usize) -> Known<Option<Asked>> {
    let action = &recipe.stages[stage].action;
    let data = |key: &str| facts.data(stage, key);
    let teacher = facts.model(stage, "teacher").ok();
    let chat = teacher.and_then(|teacher| teacher.template);
    let chat = chat.map_or(TEMPLATE_TOKENS, |template| template.around(2));
    let template = |prompt: Option<&PromptFile>| chat + prompt_tokens(prompt);
    let asked = match action {
        Action::Generate(generate) => {
            let new = u64::from(generate.sampling.max_tokens);
            match &generate.mode {
                Mode::Answer => {
                    let data = data("prompts")?;
                    let question = data.tokens_each() + template(generate.prompt.as_ref());
                    let talks = data
                        .records()?
                        .saturating_mul(u64::from(generate.candidates));
                    // Of a conversation the teacher also writes what the user says, and each request reads all before it.
                    let requests = u64::from(generate.turns).saturating_mul(2).max(2) - 1;
                    let before = (requests * (requests - 1) / 2) as f64 * new as f64;
                    Asked {
                        texts: talks.saturating_mul(requests),
                        read: talks as f64 * (requests as f64 * question + before),
                        prompt: (question + ((requests - 1) * new) as f64).ceil() as usize,
                        shared: 0,
                        new,
                    }
                }
                Mode::SelfInstruct(mode) => {
                    let each = data("prompts").map_or(RECORD_TOKENS, |data| data.tokens_each());
                    let made = each.max(mode.max_words as f64 * TOKENS_PER_WORD);
                    let of_made = mode.generated_shots.min(mode.shots) as f64;
                    let shown = of_made * made + (mode.shots as f64 - of_made) * each;
                    let requests = mode.max_requests.unwrap_or(mode.instructions) as u64;
                    Asked::alike(requests, shown + template(Some(&mode.prompt)), new)
                }
                Mode::EvolInstruct(mode) => {
                    let data = data("prompts")?;
                    // What was evolved before may be as long as an answer.
                    let text = match mode.rounds {
                        0 | 1 => data.tokens_each(),
                        _ => data.tokens_each().max(new as f64),
                    };
                    let rounds = data.records()?.saturating_mul(mode.rounds as u64);
                    let evolving =
                        text + template(Some(&mode.depth)).max(template(Some(&mode.breadth)));
                    let judging = (mode.judge.as_ref())
                        .map(|judge| text + new as f64 + template(Some(judge)));
                    let answering = mode.answerable.then_some(new as f64 + chat);
                    let each = [Some(evolving), judging, answering];
                    let each = each.into_iter().flatten();
                    Asked {
                        texts: rounds.saturating_mul(each.clone().count() as u64),
                        read: rounds as f64 * each.clone().sum::<f64>(),
                        prompt: each.fold(0.0, f64::max).ceil() as usize,
                        shared: 0,
                        new,
                    }
                }
            }
        }
        Action::Rate(rate) => {
            // All aspects are asked about at once.
            let (mut texts, mut read, mut longest) = (0_u64, 0.0, 0.0_f64);
            for number in 0..rate.answers.len() {
                let data = data(&format!("answers.{number}"))?;
                let prompt = data.tokens_each() + template(Some(&rate.prompt));
                texts = texts.saturating_add(data.records()?);
                read += data.records()? as f64 * prompt;
                longest = longest.max(prompt);
            }
            Asked {
                texts,
                read,
                prompt: longest.ceil() as usize,
                shared: 0,
                new: rate.sampling.max_tokens.into(),
            }
        }
        Action::Judge(judge) => {
            let data = data("a")?;
            let prompt = 2.0 * data.tokens_each() + template(Some(&judge.prompt));
            // Both orders.
            let requests = data.records()?.saturating_mul(2);
            Asked::alike(requests, prompt, judge.sampling.max_tokens)
        }
        Action::Exercises(stage) => {
            let data = data("topics")?;
            let prompt = data.tokens_each() + template(Some(&stage.prompt));
            let texts = data.records()?.saturating_mul(u64::from(stage.candidates));
            Asked::alike(texts, prompt, stage.sampling.max_tokens)
        }
        Action::CodeQuality(stage) if stage.teacher.is_some() => {
            let data = data("data")?;
            let prompt = data.tokens_each() + template(stage.prompt.as_ref());
            let labelled = stage.labelled as u64;
            let labelled = data
                .samples
                .map_or(labelled, |records| records.min(labelled));
            Asked::alike(labelled, prompt, stage.sampling.max_tokens)
        }
        Action::Capture(capture) if is_remote(recipe, action) => {
            let names = capture.data.names().map(|(key, _)| key);
            let (mut pieces, mut tokens) = (0_u64, 0.0);
            for key in names {
                let data = data(&key)?;
                let length = capture.sequence_length.max(1) as u64;
                // A sample may leave its last piece short.
                let whole = data.tokens() / length;
                pieces = pieces.saturating_add(whole + data.samples.unwrap_or(1));
                tokens += data.tokens() as f64;
            }
            Asked {
                texts: pieces,
                read: tokens + pieces as f64 * chat,
                prompt: capture.sequence_length,
                shared: 0,
                new: 1,
            }
        }
        Action::Distill(distill) if is_remote(recipe, action) => {
            let train = &distill.train;
            let trained = facts.trained(stage)?;
            let steps = trained.steps(train).ok_or("how much data there is")?;
            let rows = steps.saturating_mul(train.rows_per_step() as u64);
            let prompt = train.sequence_length as f64 + chat;
            Asked::alike(rows, prompt, 1_u64)
        }
        Action::Eval(eval) => return evaluated::asked(recipe, facts, stage, eval),
        _ => return Ok(None),
    };
    Ok(Some(asked))
}

/// Tokens that a prompt has beside what it shows, about.
pub fn prompt_tokens(prompt: Option<&PromptFile>) -> f64 {
    let nothing = serde_json::json!({ "prompt": "", "completion": "", "messages": [] });
    let text = prompt.and_then(|prompt| prompt.render(&nothing).ok());
    text.map_or(0.0, |text| estimated_tokens(&text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::Cache;

    const SERVER: &str = r#"
[models.server]
source = { kind = "remote", model = "m", endpoints = ["http://127.0.0.1:1/v1"], price = { input = 1.0, output = 2.0 } }
[data.ten]
source = "recipes/data/sums.jsonl"
limit = 10
[[stage]]
"#;

    fn of(stage: &str) -> Requests {
        planned(format!("{SERVER}{stage}"))
    }

    fn planned(text: String) -> Requests {
        let recipe = Recipe::parse(Path::new("r.toml"), &text, None, &[]).unwrap();
        let cache = Cache::at("not-there".into());
        let facts = Facts::new(&recipe, &cache, false);
        requests(&recipe, &facts, 0).unwrap().unwrap()
    }

    #[test]
    fn requests_are_counted_as_stages_send_them() {
        let drawn = "sampling = { temperature = 0.8, max_tokens = 100 }\nas = \"made\"";
        for (stage, wanted) in [
            ("kind = \"generate\"\nprompts = \"ten\"\ncandidates = 3", 30),
            (
                "kind = \"generate\"\nprompts = \"ten\"\nturns = 2\nuser = \"recipes/prompts/user.jinja\"",
                30,
            ),
            (
                "kind = \"generate\"\nprompts = \"ten\"\nmode = { kind = \"self_instruct\", instructions = 40, max_requests = 7, prompt = \"recipes/prompts/self_instruct.jinja\" }",
                7,
            ),
            (
                "kind = \"generate\"\nprompts = \"ten\"\nmode = { kind = \"evol_instruct\", rounds = 2, depth = \"recipes/prompts/evol_depth.jinja\", breadth = \"recipes/prompts/evol_breadth.jinja\", judge = \"recipes/prompts/evol_judge.jinja\" }",
                60,
            ),
            (
                "kind = \"exercises\"\ntopics = \"ten\"\nprompt = \"recipes/prompts/exercise.jinja\"\ncandidates = 4",
                40,
            ),
            ("kind = \"rate\"\nanswers = [\"ten\"]", 10),
        ] {
            let found = of(&format!("{stage}\nteacher = \"server\"\n{drawn}"));
            assert_eq!(found.requests, wanted, "{stage}");
            assert_eq!(found.output_tokens, 100 * wanted, "{stage}");
            let (input, output) = (found.input_tokens as f64, found.output_tokens as f64);
            let dollars = found.dollars.unwrap();
            assert!((dollars - (input + 2.0 * output) / 1e6).abs() < 1e-9);
        }
    }

    #[test]
    fn choices_and_windows_are_scored_in_a_request_each() {
        let eval = |task: &str| {
            let lender =
                "[models.here]\nsource = \"tests/golden/checkpoints/llama_tied\"\n[[stage]]";
            let server = SERVER.replace("[models.server]", "[models.server]\ntokenizer = \"here\"");
            let server = server.replace("[[stage]]", lender);
            planned(format!(
                "{server}\nkind = \"eval\"\nmodels = [\"server\"]\ndata = \"ten\"\n{task}"
            ))
        };
        for (task, choices) in [
            ("mmlu", 4),
            ("kmmlu", 4),
            ("hellaswag", 4),
            ("truthfulqa_mc1", 5),
        ] {
            for (limit, questions) in [("", 10), ("limit = 2", 2)] {
                let found = eval(&format!("task = \"{task}\"\n{limit}"));
                let wanted = (choices * questions, choices * questions);
                assert_eq!((found.requests, found.output_tokens), wanted, "{task}");
            }
        }
        let whole = eval("task = \"perplexity\"\nwindow = 512");
        assert_eq!(whole.requests, 10);
        let windows = eval("task = \"perplexity\"\nwindow = 4\nstride = 2");
        assert!(windows.requests > 20);
        assert_eq!(windows.input_tokens, 5 * windows.requests);
    }
}
