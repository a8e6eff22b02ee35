//! Perplexity: how well a model foretells a text, by a window that slides over it.

mod sums;
#[cfg(test)]
mod tests;
mod windows;

use datasets::error::DataError;
use datasets::mask::SampleEncoder;
use datasets::sample::Sample;
use datasets::tokenizer::Tokenizer;
use model::decoder::Decoder;
use model::score::label_log_probs;
use model::{phase, step};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::likelihood::Scored;
use crate::subject::{RemoteSubject, Subject, SubjectError};
pub use sums::Perplexity;
use sums::Sums;
pub(crate) use sums::or_infinite;
use windows::Window;
pub(crate) use windows::{
    batch_of, groups, positions_and_targets, scored_tokens, windows_to_score,
};

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
    #[error(transparent)]
    Subject(#[from] SubjectError),
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
/// window holds. `progress` hears how many tokens are scored, and of how many, and says whether to go on; `None` where it
/// does not.
///
/// # Errors
/// Settings that do not fit the model, tokens that it does not have, documents without anything to score; a server that
/// cannot score tokens.
pub fn perplexity(
    subject: &Subject,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Perplexity>, PerplexityError> {
    let reading = subject.reading()?;
    let windows = windows_to_score(reading.context, reading.vocabulary, documents, config)?;
    let total = scored_tokens(&windows);
    let mut sums = Sums::default();
    let mut rest = windows.as_slice();
    while !rest.is_empty() {
        let _span = step!("batch");
        let mut add = |id, log_prob: f64| {
            let bytes = reading
                .tokenizer
                .token_bytes(id)
                .map_or(0, |bytes| bytes.len());
            sums.add(bytes, -log_prob);
        };
        let (group, others) = match subject {
            Subject::Local(_) => windows::next_group(rest),
            Subject::Remote(remote) => rest.split_at(remote.sequences_at_a_time().min(rest.len())),
        };
        match subject {
            Subject::Local(teacher) => {
                score_windows(teacher.decoder(), documents, group, &mut add);
            }
            Subject::Remote(remote) => {
                if !ask_for_windows(remote, documents, group, &mut add)? {
                    return Ok(None);
                }
            }
        }
        rest = others;
        if !progress(sums.tokens, total) {
            return Ok(None);
        }
    }
    Ok(Some(sums.finish()))
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

/// Has a server score windows, a request each; false when it was stopped from outside.
fn ask_for_windows(
    remote: &RemoteSubject,
    documents: &[Vec<u32>],
    windows: &[Window],
    scored: &mut dyn FnMut(u32, f64),
) -> Result<bool, SubjectError> {
    let sequences = windows.iter().map(|window| {
        let sequence = window.sequence(documents);
        (format!("document {}", window.document + 1), sequence)
    });
    let sequences: Vec<(String, Scored)> = sequences.collect();
    let Some(told) = remote.log_probs(&sequences)? else {
        return Ok(false);
    };
    for ((_, sequence), log_probs) in sequences.iter().zip(told) {
        for (&id, log_prob) in sequence.ids[sequence.first..].iter().zip(log_probs) {
            scored(id, log_prob);
        }
    }
    Ok(true)
}
