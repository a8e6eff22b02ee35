//! Where the window stands, and what it scores there.

use std::ops::Range;

use model::batch::TokenBatch;

use super::{PerplexityConfig, PerplexityError};
use crate::likelihood::Scored;

/// Positions that are computed together; windows longer than this go one by one.
const POSITIONS_AT_A_TIME: usize = 2048;

/// Inputs of one window; it scores the tokens that follow the last `scored` of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    pub(super) document: usize,
    pub(super) inputs: Range<usize>,
    pub(super) scored: usize,
}

impl Window {
    /// Its tokens, and those that it scores.
    pub(super) fn sequence(&self, documents: &[Vec<u32>]) -> Scored {
        Scored {
            ids: documents[self.document][self.inputs.start..=self.inputs.end].to_vec(),
            first: self.inputs.len() + 1 - self.scored,
        }
    }
}

/// The windows over all documents, after a look at the settings and the tokens.
pub(crate) fn windows_to_score(
    context: usize,
    rows: usize,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
) -> Result<Vec<Window>, PerplexityError> {
    let (window, stride) = config.window_and_stride(context)?;
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
        let (group, others) = next_group(rest);
        rest = others;
        (!group.is_empty()).then_some(group)
    })
}

/// The first of [`groups`], and the windows behind it.
pub(super) fn next_group(windows: &[Window]) -> (&[Window], &[Window]) {
    let length = windows.first().map_or(1, |window| window.inputs.len());
    let together = (POSITIONS_AT_A_TIME / length).max(1);
    let same = windows.iter().take_while(|w| w.inputs.len() == length);
    windows.split_at(same.count().min(together))
}

pub(super) fn all_windows(
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
