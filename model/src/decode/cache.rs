//! Keys and values as the fused step reads them: those of one head lie one behind the other, with room for more.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use crate::kv_cache::{KvCache, LayerCache};
use crate::ops::host::HostTensor;

/// Room that a cache begins with, beyond the prompt.
const FIRST_ROOM: usize = 256;

pub(super) struct Cache {
    layers: Vec<Layer>,
    /// Which stored row each row of the batch is; rows that have ended stay behind.
    rows: Vec<usize>,
    kv_heads: usize,
    head_dim: usize,
    /// Cached positions a row.
    pub length: usize,
    capacity: usize,
}

/// `[rows, kv_heads, capacity, head_dim]` each.
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    /// Takes over the tensors of a prompt, with room for `new` positions or for the first of them.
    pub fn new(prompt: KvCache, [kv_heads, head_dim]: [usize; 2], rows: usize, new: usize) -> Self {
        let length = prompt.length;
        let capacity = length + new.min(FIRST_ROOM);
        let convert = |tensor: Tensor<3>| {
            let host = HostTensor::held(&tensor);
            let mut out = vec![0.0; rows * kv_heads * capacity * head_dim];
            for (row, cached) in host
                .slice::<f32>()
                .chunks(length * kv_heads * head_dim)
                .enumerate()
            {
                for (at, heads) in cached.chunks(kv_heads * head_dim).enumerate() {
                    for (head, values) in heads.chunks(head_dim).enumerate() {
                        let to = ((row * kv_heads + head) * capacity + at) * head_dim;
                        out[to..to + head_dim].copy_from_slice(values);
                    }
                }
            }
            out
        };
        let layers = prompt.layers.into_iter().map(|layer| {
            let (keys, values) = layer.into_tensors();
            Layer {
                keys: convert(keys),
                values: convert(values),
            }
        });
        Self {
            layers: layers.collect(),
            rows: (0..rows).collect(),
            kv_heads,
            head_dim,
            length,
            capacity,
        }
    }

    /// The first `length` positions as tensors.
    pub fn to_tensors(&self, device: &Device) -> KvCache {
        let width = self.kv_heads * self.head_dim;
        let convert = |values: &[f32]| {
            let mut out = Vec::with_capacity(self.rows.len() * self.length * width);
            for row in 0..self.rows.len() {
                for at in 0..self.length {
                    for head in 0..self.kv_heads {
                        let from = self.start(row, head) + at * self.head_dim;
                        out.extend_from_slice(&values[from..from + self.head_dim]);
                    }
                }
            }
            let shape = [self.rows.len(), self.length, width];
            Tensor::from_data(TensorData::new(out, shape), device)
        };
        let layers = self.layers.iter();
        let layers = layers
            .map(|layer| LayerCache::from_tensors(convert(&layer.keys), convert(&layer.values)));
        KvCache {
            layers: layers.collect(),
            length: self.length,
        }
    }

    /// Makes sure that `new` more positions fit; the room at least doubles when they do not.
    pub fn make_room(&mut self, new: usize) {
        if self.length + new <= self.capacity {
            return;
        }
        let capacity = (2 * self.capacity).max(self.length + new);
        let (old, new) = (self.capacity * self.head_dim, capacity * self.head_dim);
        for layer in &mut self.layers {
            for values in [&mut layer.keys, &mut layer.values] {
                let mut grown = vec![0.0; values.len() / old * new];
                for (to, from) in grown.chunks_mut(new).zip(values.chunks(old)) {
                    to[..old].copy_from_slice(from);
                }
                *values = grown;
            }
        }
        self.capacity = capacity;
    }

    /// Writes keys and values `[kv_heads · head_dim]` of position `at` of one row. `length` counts it when every layer
    /// has it.
    pub fn write(&mut self, layer: usize, row: usize, at: usize, keys: &[f32], values: &[f32]) {
        let heads = keys.chunks(self.head_dim).zip(values.chunks(self.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let at = self.start(row, head) + at * self.head_dim;
            let layer = &mut self.layers[layer];
            layer.keys[at..at + self.head_dim].copy_from_slice(key);
            layer.values[at..at + self.head_dim].copy_from_slice(value);
        }
    }

    /// Keys and values `[positions, head_dim]` of one head at some positions.
    pub fn read(
        &self,
        layer: usize,
        row: usize,
        head: usize,
        positions: Range<usize>,
    ) -> (&[f32], &[f32]) {
        let start = self.start(row, head);
        let range = start + positions.start * self.head_dim..start + positions.end * self.head_dim;
        let layer = &self.layers[layer];
        (&layer.keys[range.clone()], &layer.values[range])
    }

    pub fn keep_rows(&mut self, kept: &[usize]) {
        self.rows = kept.iter().map(|&row| self.rows[row]).collect();
    }

    fn start(&self, row: usize, head: usize) -> usize {
        (self.rows[row] * self.kv_heads + head) * self.capacity * self.head_dim
    }
}
