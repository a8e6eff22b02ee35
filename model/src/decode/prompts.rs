//! Prompts through the batched forward pass: one row that holds them all, each of which sees only itself. So nothing is
//! padded, whatever their lengths.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::batch::TokenBatch;
use crate::decoder::Decoder;
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

    /// Keys and values `[tokens, kv_heads · head_dim]` of a layer, on the CPU.
    pub fn layer(&self, number: usize) -> (HostTensor, HostTensor) {
        let (keys, values) = self.cache.layers[number].clone().into_tensors();
        (HostTensor::held(&keys), HostTensor::held(&values))
    }
}

/// Prompts in groups that are read together.
pub(super) fn groups(prompts: &[Vec<u32>]) -> Vec<&[Vec<u32>]> {
    let (mut groups, mut rest) = (Vec::new(), prompts);
    while !rest.is_empty() {
        let mut tokens = 0;
        let fit = rest.iter().take_while(|prompt| {
            tokens += prompt.len();
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
