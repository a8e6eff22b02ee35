//! Perplexity: how well a model foretells a text, by a window that slides over it.

use std::ops::Range;

use datasets::error::DataError;
use datasets::mask::SampleEncoder;
use datasets::sample::Sample;
use datasets::tokenizer::Tokenizer;
use model::batch::TokenBatch;
use model::decoder::Decoder;
use model::score::label_log_probs;
use model::{phase, step};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// Positions that are computed together; windows longer than this go one by one.
const POSITIONS_AT_A_TIME: usize = 2048;
/// The window of a model whose context is longer, unless another is asked for.
const DEFAULT_WINDOW: usize = 2048;

/// How the window slides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerplexityConfig {
    /// Tokens that the model sees at once; its own context, 2048 at most, when left out.
    pub window: Option<usize>,
    /// Tokens by which the window moves, and so the tokens scored by each window but the first; half of it when left
    /// out. A smaller stride gives each token more context and takes longer.
    pub stride: Option<usize>,
    /// Score the first so many tokens only.
    pub limit: Option<usize>,
}

/// A model's perplexity. Logarithms are natural but for `bits_per_byte`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Tokens that were scored.
    pub tokens: u64,
    /// Bytes of text that these tokens stand for.
    pub bytes: u64,
    /// Sum of −log p over the tokens, in nats. JSON has no infinity: it is written, and read, as null.
    #[serde(deserialize_with = "or_infinite")]
    pub nll_sum: f64,
    /// Mean of −log p, in nats per token.
    #[serde(deserialize_with = "or_infinite")]
    pub nll: f64,
    /// exp(`nll`).
    #[serde(deserialize_with = "or_infinite")]
    pub perplexity: f64,
    /// `nll_sum` / (ln 2 · `bytes`): comparable between models of different tokenizers.
    #[serde(deserialize_with = "or_infinite")]
    pub bits_per_byte: f64,
    /// Of `nll`, as if tokens were drawn independently: s / √tokens.
    #[serde(deserialize_with = "or_infinite")]
    pub standard_error: f64,
}

pub(crate) fn or_infinite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

#[derive(Debug, Error)]
pub enum PerplexityError {
    #[error("{key} = {found}: expected {expected}")]
    Setting {
        key: &'static str,
        found: usize,
        expected: String,
    },
    #[error(
        "nothing to score: no document has two tokens\nhint: is the data the text that you meant?"
    )]
    Empty,
    #[error(
        "token {id} of document {document} lies beyond the model's {rows} tokens\n\
         hint: the data was tokenised for another model"
    )]
    TokenOutOfRange {
        id: u32,
        /// From 1.
        document: usize,
        rows: usize,
    },
    #[error(transparent)]
    Data(#[from] DataError),
}

impl PerplexityConfig {
    /// Window and stride for a model that sees `context` tokens.
    ///
    /// # Errors
    /// [`PerplexityError::Setting`] when the window is not within 2 and the context, or the stride not within 1 and
    /// the window.
    pub fn window_and_stride(&self, context: usize) -> Result<(usize, usize), PerplexityError> {
        let window = self.window.unwrap_or(context.min(DEFAULT_WINDOW));
        if window < 2 || window > context {
            return Err(PerplexityError::Setting {
                key: "window",
                found: window,
                expected: format!("2 tokens at least and the model's context of {context} at most"),
            });
        }
        let stride = self.stride.unwrap_or(window / 2);
        if stride < 1 || stride > window {
            return Err(PerplexityError::Setting {
                key: "stride",
                found: stride,
                expected: format!("1 token at least and the window of {window} at most"),
            });
        }
        Ok((window, stride))
    }
}

/// The tokens of samples, one document each. A text is opened as the tokenizer opens it: with its beginning-of-sequence
/// token, if it has one. Prompts and conversations are put into the model's chat template, and count whole.
///
/// # Errors
/// What the tokenizer or the template says; the number of the sample is with it.
pub fn documents(
    tokenizer: &Tokenizer,
    samples: &[Sample],
) -> Result<Vec<Vec<u32>>, PerplexityError> {
    let encoder = SampleEncoder::new(tokenizer)?;
    let encode = |sample: &Sample| match sample {
        Sample::Text(text) => tokenizer.encode(text, true),
        other => encoder.encode(other).map(|encoded| encoded.ids),
    };
    (samples.iter().enumerate())
        .map(|(i, sample)| {
            encode(sample).map_err(|source| {
                let (number, source) = (i + 1, Box::new(source));
                DataError::Sample { number, source }.into()
            })
        })
        .collect()
}

/// Scores every token of each document after its first exactly once, each given as much of what precedes it as the
/// window holds. `progress` hears how many tokens are scored, and of how many.
///
/// # Errors
/// Settings that do not fit the model, tokens that it does not have, documents without anything to score.
pub fn perplexity(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Perplexity, PerplexityError> {
    let windows = windows_to_score(decoder, documents, config)?;
    let total = scored_tokens(&windows);
    let mut sums = Sums::default();
    for group in groups(&windows) {
        let _span = step!("batch");
        score_windows(decoder, documents, group, &mut |id, log_prob| {
            let bytes = tokenizer.token_bytes(id).map_or(0, |bytes| bytes.len());
            sums.add(bytes, -log_prob);
        });
        progress(sums.tokens, total);
    }
    Ok(sums.finish())
}

/// Inputs of one window; it scores the tokens that follow the last `scored` of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    document: usize,
    inputs: Range<usize>,
    scored: usize,
}

/// The windows over all documents, after a look at the settings and the tokens.
pub(crate) fn windows_to_score(
    decoder: &Decoder,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
) -> Result<Vec<Window>, PerplexityError> {
    let (window, stride) = config.window_and_stride(decoder.config.max_position_embeddings)?;
    let rows = decoder.config.vocab_size;
    for (number, document) in documents.iter().enumerate() {
        if let Some(&id) = document.iter().find(|&&id| id as usize >= rows) {
            let document = number + 1;
            return Err(PerplexityError::TokenOutOfRange { id, document, rows });
        }
    }
    let windows = all_windows(documents, window, stride, config.limit);
    match scored_tokens(&windows) {
        0 => Err(PerplexityError::Empty),
        _ => Ok(windows),
    }
}

pub(crate) fn scored_tokens(windows: &[Window]) -> u64 {
    windows.iter().map(|window| window.scored as u64).sum()
}

/// Windows of equal length that are computed together.
pub(crate) fn groups(windows: &[Window]) -> impl Iterator<Item = &[Window]> {
    let mut rest = windows;
    std::iter::from_fn(move || {
        let length = rest.first()?.inputs.len();
        let together = (POSITIONS_AT_A_TIME / length).max(1);
        let same = rest.iter().take_while(|w| w.inputs.len() == length);
        let (group, others) = rest.split_at(same.count().min(together));
        rest = others;
        Some(group)
    })
}

fn all_windows(
    documents: &[Vec<u32>],
    window: usize,
    stride: usize,
    limit: Option<usize>,
) -> Vec<Window> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut windows = Vec::new();
    for (document, ids) in documents.iter().enumerate() {
        // The last token is nobody's input.
        let inputs = ids.len().saturating_sub(1).min(left);
        left -= inputs;
        let mut end = 0;
        while end < inputs {
            let step = if end == 0 { window } else { stride };
            let next = (end + step).min(inputs);
            windows.push(Window {
                document,
                inputs: next.saturating_sub(window)..next,
                scored: next - end,
            });
            end = next;
        }
    }
    windows
}

/// Scores windows of equal length, which are the rows of one batch.
fn score_windows(
    decoder: &Decoder,
    documents: &[Vec<u32>],
    windows: &[Window],
    scored: &mut dyn FnMut(u32, f64),
) {
    let hidden = {
        let _phase = phase!("forward");
        decoder.hidden(&batch_of(documents, windows))
    };
    let _phase = phase!("log-probabilities");
    let width = hidden.dims()[1];
    for (positions, targets) in positions_and_targets(documents, windows) {
        let rows = hidden.clone().slice([positions, 0..width]);
        let log_probs = label_log_probs(decoder, &rows, targets);
        for (&id, log_prob) in targets.iter().zip(log_probs) {
            scored(id, log_prob);
        }
    }
}

/// Windows of equal length as the rows of one batch.
pub(crate) fn batch_of(documents: &[Vec<u32>], windows: &[Window]) -> TokenBatch {
    let length = windows.first().map_or(0, |w| w.inputs.len());
    let ids: Vec<u32> = (windows.iter())
        .flat_map(|w| &documents[w.document][w.inputs.clone()])
        .copied()
        .collect();
    TokenBatch {
        rows: windows.len(),
        length,
        positions: (0..windows.len()).flat_map(|_| 0..length as u32).collect(),
        segments: vec![1; ids.len()],
        ids,
    }
}

/// Of each window of a batch: the positions that score, and the tokens that follow them.
pub(crate) fn positions_and_targets<'a>(
    documents: &'a [Vec<u32>],
    windows: &'a [Window],
) -> impl Iterator<Item = (Range<usize>, &'a [u32])> {
    (windows.iter().enumerate()).map(|(row, window)| {
        let end = (row + 1) * window.inputs.len();
        let first = window.inputs.end - window.scored + 1;
        let targets = &documents[window.document][first..=window.inputs.end];
        (end - window.scored..end, targets)
    })
}

/// Running sums; the variance by Welford's recurrence.
#[derive(Debug, Default)]
struct Sums {
    tokens: u64,
    bytes: u64,
    nll: f64,
    mean: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, bytes: usize, nll: f64) {
        self.tokens += 1;
        self.bytes += bytes as u64;
        self.nll += nll;
        let from_old = nll - self.mean;
        self.mean += from_old / self.tokens as f64;
        self.squares += from_old * (nll - self.mean);
    }

    fn finish(&self) -> Perplexity {
        let tokens = self.tokens as f64;
        let nll = self.nll / tokens;
        let variance = self.squares / (tokens - 1.0).max(1.0);
        Perplexity {
            tokens: self.tokens,
            bytes: self.bytes,
            nll_sum: self.nll,
            nll,
            perplexity: nll.exp(),
            bits_per_byte: self.nll / std::f64::consts::LN_2 / self.bytes.max(1) as f64,
            standard_error: (variance / tokens).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests;
