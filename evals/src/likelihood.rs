//! Log-likelihoods of texts behind other texts. What several sequences share at their start is computed once, equal
//! sequences are one row, and only the positions that are asked for go through the head.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData};
use model::batch::TokenBatch;
use model::decoder::{CachedHistory, Decoder};
use model::kv_cache::KvCache;
use model::phase;
use model::score::log_probs_of;

/// Positions that are computed together.
const POSITIONS_AT_A_TIME: usize = 2048;
/// Most bytes of keys and values that a batch repeats for its rows.
pub const CACHED_BYTES: usize = 256 << 20;
/// A shorter common start is not worth a forward pass of its own.
pub const LEAST_SHARED: usize = 16;

/// Tokens of which those from `first` on are scored, each given all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    pub ids: Vec<u32>,
    /// At least 1.
    pub first: usize,
}

impl Scored {
    /// The tokens that the model reads: the last one is only scored.
    fn input(&self) -> &[u32] {
        &self.ids[..self.ids.len() - 1]
    }

    /// Cut from the left to what a model of this context reads.
    pub fn within(mut self, context: usize) -> Self {
        let surplus = self.input().len().saturating_sub(context);
        self.ids.drain(..surplus);
        self.first = self.first.saturating_sub(surplus).max(1);
        self
    }
}

/// Sequences that belong to one question.
pub type Item = Vec<Scored>;

/// Items that begin alike, in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    prefix: Vec<u32>,
    /// Numbers of the items of each batch.
    pub batches: Vec<Vec<usize>>,
}

/// Cuts `items` into batches, the longest first. Each of `ranges` is expected to begin alike. The cut follows from the
/// items and the model's shape alone.
pub fn plan(decoder: &Decoder, items: &[Item], ranges: &[Range<usize>]) -> Vec<Group> {
    let config = &decoder.config;
    let width = config.num_key_value_heads * config.head_dim;
    let position_bytes = 2 * decoder.blocks.len() * width * size_of::<f32>();
    let cached = (CACHED_BYTES / position_bytes.max(1)).max(1);
    (ranges.iter().filter(|range| !range.is_empty()))
        .map(|range| {
            let shared = shared_length(&items[range.clone()]);
            let prefix = items[range.start][0].ids[..shared].to_vec();
            let mut order: Vec<usize> = range.clone().collect();
            order.sort_by_key(|&number| std::cmp::Reverse(longest(&items[number])));
            let mut batches: Vec<Vec<usize>> = Vec::new();
            let (mut rows, mut length) = (0, 0);
            for number in order {
                let more = items[number].len();
                let positions = (rows + more) * (length - shared.min(length));
                let held = if shared == 0 {
                    0
                } else {
                    (rows + more) * length
                };
                if batches.is_empty() || positions > POSITIONS_AT_A_TIME || held > cached {
                    batches.push(Vec::new());
                    (rows, length) = (0, longest(&items[number]));
                }
                rows += more;
                batches.last_mut().expect("pushed above").push(number);
            }
            Group { prefix, batches }
        })
        .collect()
}

fn longest(item: &Item) -> usize {
    item.iter().map(|s| s.input().len()).max().unwrap_or(0)
}

/// How many first tokens all sequences share, short of the last that each of them must read itself; 0 where that is not
/// worth the while.
fn shared_length(items: &[Item]) -> usize {
    let mut sequences = items.iter().flatten();
    let Some(first) = sequences.next() else {
        return 0;
    };
    let mut shared = first.first - 1;
    let mut rows = 1;
    for sequence in sequences {
        rows += usize::from(sequence.input() != first.input());
        let most = shared.min(sequence.first - 1);
        shared = (first.ids.iter().zip(&sequence.ids).take(most))
            .take_while(|(a, b)| a == b)
            .count();
    }
    match rows > 1 && shared >= LEAST_SHARED {
        true => shared,
        false => 0,
    }
}

/// Keys and values of what a group shares.
pub struct SharedPrefix(Option<KvCache>);

impl SharedPrefix {
    pub fn of(decoder: &Decoder, group: &Group) -> Self {
        if group.prefix.is_empty() {
            return Self(None);
        }
        let _phase = phase!("shared prefix");
        let mut cache = KvCache::new(decoder.blocks.len());
        let history = CachedHistory { padding: vec![0] };
        decoder.hidden_cached(&TokenBatch::single(&group.prefix), &history, &mut cache);
        Self(Some(cache))
    }
}

/// The log-likelihoods of the sequences of some items, in nats: Σ log p over their scored tokens.
///
/// # Panics
/// When a token lies beyond the model's vocabulary.
pub fn log_likelihoods(decoder: &Decoder, items: &[&Item], prefix: &SharedPrefix) -> Vec<Vec<f64>> {
    let shared = prefix.0.as_ref().map_or(0, |cache| cache.length);
    let mut rows: Vec<&[u32]> = (items.iter().copied().flatten())
        .map(|sequence| &sequence.input()[shared..])
        .collect();
    rows.sort_unstable();
    rows.dedup();
    let length = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let cells = |sequence: &Scored| -> Vec<usize> {
        let row = rows.binary_search(&&sequence.input()[shared..]);
        let start = row.expect("every input is a row") * length;
        (sequence.first..sequence.ids.len())
            .map(|at| start + at - 1 - shared)
            .collect()
    };
    let mut asked: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for sequence in items.iter().copied().flatten() {
        for (cell, &id) in cells(sequence)
            .into_iter()
            .zip(&sequence.ids[sequence.first..])
        {
            asked.entry(cell).or_default().push(id);
        }
    }
    let hidden = hidden_states(decoder, &rows, prefix);
    let hidden = hidden.select(0, index(asked.keys().copied(), decoder));
    let targets: Vec<Vec<u32>> = asked.values().cloned().collect();
    let _phase = phase!("log-probabilities");
    let found = log_probs_of(decoder, &hidden, &targets);
    let place: BTreeMap<usize, usize> = asked.keys().copied().zip(0..).collect();
    let log_prob = |cell: usize, id: u32| {
        let at = place[&cell];
        let target = targets[at].iter().position(|&target| target == id);
        found[at][target.expect("asked for above")]
    };
    let sum = |sequence: &Scored| {
        let scored = sequence.ids[sequence.first..].iter();
        (cells(sequence).into_iter().zip(scored))
            .map(|(cell, &id)| log_prob(cell, id))
            .sum()
    };
    (items.iter())
        .map(|item| item.iter().map(sum).collect())
        .collect()
}

/// Hidden states `[rows · length, width]` behind the shared prefix. Short rows end in padding, which nothing before it sees.
fn hidden_states(decoder: &Decoder, rows: &[&[u32]], prefix: &SharedPrefix) -> Tensor<2> {
    let _phase = phase!("forward");
    let shared = prefix.0.as_ref().map_or(0, |cache| cache.length);
    let batch = TokenBatch::padded_behind(rows, shared);
    match &prefix.0 {
        None => decoder.hidden(&batch),
        Some(cache) => {
            let mut cache = cache.clone();
            if rows.len() > 1 {
                cache.select_rows(&vec![0; rows.len()], 0);
            }
            let padding = vec![0; rows.len()];
            decoder.hidden_cached(&batch, &CachedHistory { padding }, &mut cache)
        }
    }
}

fn index(cells: impl Iterator<Item = usize>, decoder: &Decoder) -> Tensor<1, Int> {
    let cells: Vec<i32> = cells.map(|cell| cell as i32).collect();
    let count = cells.len();
    Tensor::from_data(
        TensorData::new(cells, [count]),
        (&decoder.device(), DType::I32),
    )
}
