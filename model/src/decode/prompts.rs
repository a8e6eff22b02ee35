//! Prompts through the batched forward pass: one row that holds them all, each of which sees only itself. So nothing is
//! padded, whatever their lengths.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::batch::TokenBatch;
use crate::decoder::{CachedHistory, Decoder};
use crate::kv_cache::KvCache;
use crate::ops::host::HostTensor;

/// Tokens of prompts that go through the layers together, at least one prompt's.
const TOKENS_AT_A_TIME: usize = 2048;

/// What the layers made of some prompts.
pub(super) struct PromptStates {
    pub cache: KvCache,
    /// Where each prompt lies in the row.
    pub ranges: Vec<Range<usize>>,
    /// Logits `[prompts, vocabulary]` of what follows each.
    pub logits: Vec<f32>,
}

impl PromptStates {
    /// Reads prompts, none of them empty.
    pub fn read(decoder: &Decoder, prompts: &[Vec<u32>]) -> Self {
        let mut cache = KvCache::new(decoder.blocks.len());
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let start = ranges.last().map_or(0, |range| range.end);
            ranges.push(start..start + prompt.len());
        }
        let lengths = || prompts.iter().map(|prompt| prompt.len() as u32);
        let batch = TokenBatch {
            rows: 1,
            length: lengths().sum::<u32>() as usize,
            ids: prompts.concat(),
            positions: lengths().flat_map(|length| 0..length).collect(),
            segments: (1..)
                .zip(lengths())
                .flat_map(|(segment, length)| std::iter::repeat_n(segment, length as usize))
                .collect(),
        };
        let hidden = decoder.hidden_to_cache(&batch, &mut cache);
        let last: Vec<i32> = ranges.iter().map(|range| range.end as i32 - 1).collect();
        let last = TensorData::new(last, [ranges.len()]);
        let last = Tensor::<1, Int>::from_data(last, (&hidden.device(), DType::I32));
        Self {
            cache,
            ranges,
            logits: values(decoder.logits(&hidden.select(0, last))),
        }
    }

    /// Reads prompts whose beginning has been read: `start` is one row of what they share. Short ones end in padding.
    pub fn read_behind(decoder: &Decoder, start: &KvCache, prompts: &[Vec<u32>]) -> Self {
        let rests: Vec<&[u32]> = prompts.iter().map(|p| &p[start.length..]).collect();
        let batch = TokenBatch::padded_behind(&rests, start.length);
        let mut cache = start.clone();
        cache.select_rows(&vec![0; prompts.len()], 0);
        let padding = vec![0; prompts.len()];
        let hidden = decoder.hidden_cached(&batch, &CachedHistory { padding }, &mut cache);
        let ends = rests.iter().enumerate();
        let ends: Vec<i32> = ends
            .map(|(row, rest)| (row * batch.length + rest.len()) as i32 - 1)
            .collect();
        let ends = TensorData::new(ends, [prompts.len()]);
        let ends = Tensor::<1, Int>::from_data(ends, (&hidden.device(), DType::I32));
        let length = cache.length;
        let ranges = prompts.iter().enumerate();
        Self {
            ranges: ranges
                .map(|(row, prompt)| row * length..row * length + prompt.len())
                .collect(),
            cache: cache.into_one_row(),
            logits: values(decoder.logits(&hidden.select(0, ends))),
        }
    }

    /// Keys and values `[tokens, kv_heads · head_dim]` of a layer, on the CPU.
    pub fn layer(&self, number: usize) -> (HostTensor, HostTensor) {
        let (keys, values) = self.cache.layers[number].clone().into_tensors();
        (HostTensor::held(&keys), HostTensor::held(&values))
    }
}

/// Prompts in groups that are read together, without their `shared` first tokens.
pub(super) fn groups(prompts: &[Vec<u32>], shared: usize) -> Vec<&[Vec<u32>]> {
    let (mut groups, mut rest) = (Vec::new(), prompts);
    while !rest.is_empty() {
        let mut tokens = 0;
        let fit = rest.iter().take_while(|prompt| {
            tokens += prompt.len() - shared;
            tokens <= TOKENS_AT_A_TIME
        });
        let (group, after) = rest.split_at(fit.count().max(1));
        groups.push(group);
        rest = after;
    }
    groups
}

pub(super) fn values(logits: Tensor<2>) -> Vec<f32> {
    let values = logits.cast(DType::F32).into_data().try_to_vec();
    values.expect("logits were cast to f32")
}
