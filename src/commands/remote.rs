//! The verbs `generate`, `chat` and `score` with a model behind a server.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use datasets::sample::Message;
use model::generate::sampling::SamplingConfig;
use serde_json::json;
use teacher::remote::RemoteModel;
use teacher::remote::account::{Account, Budget};
use teacher::remote::answer::{Answer, TokenLogprob};
use teacher::remote::config::RemoteConfig;
use teacher::remote::request::{Given, Input, Request, Sampling};
use teacher::remote::store::Store;
use teacher::synth::asker::{Asker, Backend};

use crate::cli::{ChatArgs, DraftArgs, GenerateArgs, ModelArgs, SamplingArgs, ScoreArgs};
use crate::source::Cache;

/// Continues each text; what the store has is not asked again.
pub fn generate(remote: &RemoteConfig, texts: &[String], arguments: &GenerateArgs) -> Result<()> {
    let sampling = sampling(&arguments.model, &arguments.sampling, &arguments.draft)?;
    let request = |text: &String| Request {
        input: match arguments.raw {
            true => Input::Text(text.clone()),
            false => Input::Chat(vec![Message::new("user", text)]),
        },
        sampling: sampling.clone(),
        candidates: 1,
        top_logprobs: None,
        schema: None,
    };
    let answers = ask(
        remote,
        "the verb generate",
        texts.iter().map(request).collect(),
    )?;
    let mut out = std::io::stdout().lock();
    for (number, answer) in answers.iter().enumerate() {
        let choice = answer
            .choices
            .first()
            .context("an answer without a choice")?;
        match (arguments.json, answers.len()) {
            (true, _) => {
                let shown = json!({ "text": choice.text, "finish_reason": choice.finish_reason });
                writeln!(out, "{shown}")?;
            }
            (false, 1) => writeln!(out, "{}", choice.text)?,
            (false, _) => writeln!(out, "=== {}\n{}", number + 1, choice.text)?,
        }
    }
    if arguments.stats {
        let tokens: u64 = answers.iter().map(|answer| answer.usage.output).sum();
        eprintln!("{tokens} tokens were written");
    }
    Ok(())
}

/// The answer to a conversation, as far as the server tells it.
pub fn answer(remote: &RemoteConfig, messages: &[Message], arguments: &ChatArgs) -> Result<String> {
    let request = Request {
        input: Input::Chat(messages.to_vec()),
        sampling: sampling(&arguments.model, &arguments.sampling, &arguments.draft)?,
        candidates: 1,
        top_logprobs: None,
        schema: None,
    };
    let answer = ask(remote, "the verb chat", vec![request])?.pop();
    let choice = answer.and_then(|answer| answer.choices.into_iter().next());
    Ok(choice.context("an answer without a choice")?.text)
}

/// What a server can be told of how to draw.
fn sampling(model: &ModelArgs, sampling: &SamplingArgs, draft: &DraftArgs) -> Result<Sampling> {
    let request = sampling.request();
    let plain = SamplingConfig {
        temperature: request.sampling.temperature,
        top_p: request.sampling.top_p,
        ..SamplingConfig::default()
    };
    if request.sampling != plain || model.adapter.is_some() || draft.draft.is_some() {
        bail!(
            "a remote model takes neither --top-k, --min-p and --repetition-penalty nor --adapter and --draft"
        );
    }
    Ok(Sampling {
        temperature: sampling.temperature,
        top_p: sampling.top_p.unwrap_or(1.0),
        max_tokens: u32::try_from(request.max_new_tokens).context("--max-tokens is too large")?,
        seed: Some(request.seed),
        stop: request.stop,
    })
}

/// Scores a text, where the server can.
pub fn score(remote: &RemoteConfig, given: Given, arguments: &ScoreArgs) -> Result<()> {
    if matches!(&given, Given::Text(text) if text.is_empty()) || given == Given::Ids(Vec::new()) {
        bail!("there is nothing to score: the text has no tokens");
    }
    let request = Request {
        input: Input::Given(given),
        sampling: Sampling::default(),
        candidates: 1,
        top_logprobs: arguments.top.and_then(|top| u32::try_from(top).ok()),
        schema: None,
    };
    let answer = ask(remote, "the verb score", vec![request])?.pop();
    let tokens = answer
        .and_then(|answer| answer.choices.into_iter().next())
        .context("an answer without a choice")?
        .logprobs;
    let logprobs: Vec<f64> = tokens
        .iter()
        .skip(1)
        .filter_map(|token| token.logprob)
        .collect();
    let count = logprobs.len() as f64;
    let nll = (count > 0.0).then(|| -logprobs.iter().sum::<f64>() / count);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let ids: Option<Vec<u32>> = tokens.iter().map(|token| token.id).collect();
        let mut shown = json!({
            "ids": ids,
            "texts": tokens.iter().map(|token| &token.token).collect::<Vec<_>>(),
            "logprobs": logprobs,
            "nll": nll,
            "tokens": tokens.len(),
        });
        if arguments.top.is_some() {
            shown["top"] = json!(tokens.iter().map(|token| &token.top).collect::<Vec<_>>());
        }
        writeln!(out, "{shown}")?;
        return Ok(());
    }
    writeln!(out, "position      id   log p  token")?;
    for (at, token) in tokens.iter().enumerate() {
        write_token(&mut out, at, token)?;
    }
    if let Some(nll) = nll {
        let perplexity = nll.exp();
        writeln!(
            out,
            "{} tokens, mean NLL {nll:.5} nats, perplexity {perplexity:.4}",
            tokens.len()
        )?;
    }
    Ok(())
}

fn write_token(out: &mut impl Write, at: usize, token: &TokenLogprob) -> std::io::Result<()> {
    let id = |id: Option<u32>| id.map_or_else(|| "–".to_string(), |id| id.to_string());
    let logprob = match token.logprob {
        Some(logprob) => format!("{logprob:7.3}"),
        None => "      –".to_string(),
    };
    writeln!(
        out,
        "{at:8} {:>7} {logprob}  {:?}",
        id(token.id),
        token.token
    )?;
    for other in &token.top {
        let (id, logprob) = (id(other.id), other.logprob);
        writeln!(
            out,
            "         {id:>7} {logprob:7.3}    here: {:?}",
            other.token
        )?;
    }
    Ok(())
}

/// All requests, as many at a time as the recipe's table allows.
fn ask(remote: &RemoteConfig, purpose: &str, requests: Vec<Request>) -> Result<Vec<Answer>> {
    let store = Arc::new(Store::open(
        &Cache::from_env()?.root().join("answers.sqlite"),
    )?);
    let account = Account::open(purpose, store, remote.price, Budget::default())?;
    let model = RemoteModel::new(remote, Arc::new(AtomicBool::new(false)))?;
    let asker = Arc::new(Asker::new(Backend::Remote(Box::new(model)), account));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start asking")?;
    runtime.block_on(async {
        let tasks: Vec<_> = (requests.into_iter())
            .map(|request| {
                let asker = asker.clone();
                tokio::spawn(async move { asker.ask(&request).await })
            })
            .collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(task.await.context("the asking has failed")??.answer);
        }
        Ok(answers)
    })
}
