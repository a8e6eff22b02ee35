//! `distill score`: the log-probability that a model gives to every token of a text.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use datasets::tokenizer::Tokenizer;
use model::batch::TokenBatch;
use model::decoder::Decoder;
use model::load::load_frozen_decoder;
use model::score::{label_log_probs, top_logits};
use serde::Serialize;
use teacher::remote::request::Given;
use teacher::tokenizer::{load_tokenizer, optional_tokenizer};

use super::open_model::open_model;
use super::remote;
use crate::cli::ScoreArgs;
use crate::device::place;
use crate::source::ModelSource;

/// What is printed: `logprobs[i]` (nats) belongs to `ids[i + 1]` given `ids[..=i]`.
#[derive(Debug, Serialize)]
struct Scores {
    ids: Vec<u32>,
    logprobs: Vec<f64>,
    /// Mean of −log p; none for a single token.
    nll: Option<f64>,
    tokens: usize,
    /// The best raw logits of each position, the last included.
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<Vec<(u32, f32)>>>,
}

pub fn run(arguments: ScoreArgs) -> anyhow::Result<()> {
    // A mistake in the input shows before anything large is read.
    let text = match (&arguments.text, &arguments.file) {
        (Some(text), _) => Some(text.clone()),
        (_, Some(path)) => Some(read(path)?),
        _ => None,
    };
    if let ModelSource::Remote(remote) = &arguments.model.model {
        let given = match (text, &arguments.ids) {
            (Some(text), _) => Given::Text(text),
            (None, Some(path)) => Given::Ids(read_ids(path, u32::MAX as usize)?),
            (None, None) => bail!("one of --text, --file and --ids is needed"),
        };
        return remote::score(remote, given, &arguments);
    }
    let placement = place(arguments.model.device.device)?;
    let checkpoint = open_model(&arguments.model)?;
    let (tokenizer, ids) = match (text, &arguments.ids) {
        (Some(text), _) => {
            let tokenizer = load_tokenizer(&checkpoint)?;
            let ids = tokenizer.encode(&text, true)?;
            (Some(tokenizer), ids)
        }
        (None, Some(path)) => (
            optional_tokenizer(&checkpoint)?,
            read_ids(path, checkpoint.config().vocab_size)?,
        ),
        (None, None) => bail!("one of --text, --file and --ids is needed"),
    };
    check_length(ids.len(), checkpoint.config().max_position_embeddings)?;
    let decoder = load_frozen_decoder(&checkpoint, &placement)?;
    let scores = score(&decoder, ids, arguments.top);
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", serde_json::to_string(&scores)?)?,
        false => write_table(&mut out, &scores, tokenizer.as_ref())?,
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_ids(path: &Path, rows: usize) -> anyhow::Result<Vec<u32>> {
    let ids: Vec<u32> = serde_json::from_str(&read(path)?)
        .with_context(|| format!("{}: expected one JSON array of token ids", path.display()))?;
    if let Some(at) = ids.iter().position(|&id| id as usize >= rows) {
        bail!(
            "{}: element {at} is {}, but the model has {rows} tokens, numbered from 0",
            path.display(),
            ids[at]
        );
    }
    Ok(ids)
}

fn check_length(tokens: usize, context: usize) -> anyhow::Result<()> {
    match tokens {
        0 => bail!("there is nothing to score: the text has no tokens"),
        _ if tokens > context => bail!(
            "the text has {tokens} tokens, more than the model's context of {context}\n\
             hint: `distill eval perplexity` slides a window over longer texts"
        ),
        _ => Ok(()),
    }
}

fn score(decoder: &Decoder, ids: Vec<u32>, top: Option<usize>) -> Scores {
    let hidden = decoder.hidden(&TokenBatch::single(&ids));
    let [tokens, width] = hidden.dims();
    let logprobs = match tokens {
        1 => Vec::new(),
        _ => {
            let before = hidden.clone().slice([0..tokens - 1, 0..width]);
            label_log_probs(decoder, &before, &ids[1..])
        }
    };
    let count = logprobs.len() as f64;
    Scores {
        nll: (count > 0.0).then(|| -logprobs.iter().sum::<f64>() / count),
        top: top.map(|k| top_logits(decoder, &hidden, k)),
        tokens,
        logprobs,
        ids,
    }
}

/// One line a token: its log-probability given those before it, and the best tokens to follow it.
fn write_table(
    out: &mut impl Write,
    scores: &Scores,
    tokenizer: Option<&Tokenizer>,
) -> std::io::Result<()> {
    let shown = |id: u32| {
        let text = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(id));
        text.map_or_else(String::new, |bytes| {
            format!("{:?}", String::from_utf8_lossy(&bytes))
        })
    };
    writeln!(out, "position      id   log p  token")?;
    for (at, &id) in scores.ids.iter().enumerate() {
        let logprob = match at {
            0 => "      –".to_string(),
            _ => format!("{:7.3}", scores.logprobs[at - 1]),
        };
        let line = format!("{at:8} {id:7} {logprob}  {}", shown(id));
        writeln!(out, "{}", line.trim_end())?;
        let best = scores.top.iter().filter_map(|top| top.get(at)).flatten();
        for (id, logit) in best {
            let line = format!("         {id:7} {logit:7.3}    next: {}", shown(*id));
            writeln!(out, "{}", line.trim_end_matches("next: ").trim_end())?;
        }
    }
    if let Some(nll) = scores.nll {
        writeln!(
            out,
            "{} tokens, mean NLL {nll:.5} nats, perplexity {:.4}",
            scores.tokens,
            nll.exp()
        )?;
    }
    Ok(())
}
