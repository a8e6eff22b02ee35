//! Keys and values as the fused step reads them: those of one head lie one behind the other, with room for more. Each
//! row has a length of its own; the place of one that has ended serves the next.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use super::prompts::PromptStates;
use crate::kv_cache::{KvCache, LayerCache};

/// Room for new positions that a cache begins with.
const FIRST_ROOM: usize = 256;

pub(super) struct Cache {
    layers: Vec<Layer>,
    rows: Vec<Row>,
    /// Places of rows that have ended.
    free: Vec<usize>,
    /// Places there are.
    places: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Positions that fit into a place.
    capacity: usize,
}

/// `[places, kv_heads, capacity, head_dim]` each.
#[derive(Clone, Default)]
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Row {
    place: usize,
    /// Cached positions.
    length: usize,
}

impl Cache {
    pub fn new(layers: usize, [kv_heads, head_dim]: [usize; 2]) -> Self {
        Self {
            layers: vec![Layer::default(); layers],
            rows: Vec::new(),
            free: Vec::new(),
            places: 0,
            kv_heads,
            head_dim,
            capacity: 0,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Cached positions of a row.
    pub fn length(&self, row: usize) -> usize {
        self.rows[row].length
    }

    pub fn longest(&self) -> usize {
        let lengths = self.rows.iter().map(|row| row.length);
        lengths.max().unwrap_or(0)
    }

    /// Takes over what the layers made of prompts, a row each, with room for `new` positions or for the first of them.
    pub fn add_rows(&mut self, prompts: &PromptStates, new: usize) {
        let longest = prompts.ranges.iter().map(Range::len).max().unwrap_or(0);
        let needed = longest + new.min(FIRST_ROOM);
        if needed > self.capacity {
            self.grow(needed);
        }
        let first = self.rows.len();
        for range in &prompts.ranges {
            let place = self.free.pop().unwrap_or(self.places);
            self.places = self.places.max(place + 1);
            self.rows.push(Row {
                place,
                length: range.len(),
            });
        }
        let (size, width) = (self.place_size(), self.kv_heads * self.head_dim);
        for number in 0..self.layers.len() {
            let from = prompts.layer(number);
            let layer = &mut self.layers[number];
            for (to, from) in [(&mut layer.keys, from.0), (&mut layer.values, from.1)] {
                to.resize(self.places * size, 0.0);
                for (row, range) in self.rows[first..].iter().zip(&prompts.ranges) {
                    let cached = &from.slice::<f32>()[range.start * width..range.end * width];
                    let to = &mut to[row.place * size..(row.place + 1) * size];
                    for (at, heads) in cached.chunks(width).enumerate() {
                        for (head, values) in heads.chunks(self.head_dim).enumerate() {
                            let to = &mut to[(head * self.capacity + at) * self.head_dim..];
                            to[..self.head_dim].copy_from_slice(values);
                        }
                    }
                }
            }
        }
    }

    /// Makes sure that `new` more positions fit into each row; the room at least doubles when they do not.
    pub fn make_room(&mut self, new: usize) {
        let needed = self.longest() + new;
        if needed > self.capacity {
            self.grow(needed.max(2 * self.capacity));
        }
    }

    /// Writes keys and values `[kv_heads · head_dim]` of position `at` of one row. [`Self::count_written`] counts it when
    /// every layer has it.
    pub fn write(&mut self, layer: usize, row: usize, at: usize, keys: &[f32], values: &[f32]) {
        let heads = keys.chunks(self.head_dim).zip(values.chunks(self.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let at = self.start(row, head) + at * self.head_dim;
            let layer = &mut self.layers[layer];
            layer.keys[at..at + self.head_dim].copy_from_slice(key);
            layer.values[at..at + self.head_dim].copy_from_slice(value);
        }
    }

    /// Counts `new` positions that were written in each row.
    pub fn count_written(&mut self, new: usize) {
        self.rows.iter_mut().for_each(|row| row.length += new);
    }

    /// Forgets all but the first `length` positions of each row.
    pub fn truncate(&mut self, length: usize) {
        let rows = self.rows.iter_mut();
        rows.for_each(|row| row.length = row.length.min(length));
    }

    /// A row as tensors.
    pub fn to_tensors(&self, row: usize, device: &Device) -> KvCache {
        let (length, width) = (self.rows[row].length, self.kv_heads * self.head_dim);
        let convert = |values: &[f32]| {
            let mut out = Vec::with_capacity(length * width);
            for at in 0..length {
                for head in 0..self.kv_heads {
                    let from = self.start(row, head) + at * self.head_dim;
                    out.extend_from_slice(&values[from..from + self.head_dim]);
                }
            }
            Tensor::from_data(TensorData::new(out, [1, length, width]), device)
        };
        let layers = self.layers.iter();
        let layers = layers.map(|layer| match length {
            0 => LayerCache::default(),
            _ => LayerCache::from_tensors(convert(&layer.keys), convert(&layer.values)),
        });
        KvCache {
            layers: layers.collect(),
            length,
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
        let ended = (0..self.rows.len()).filter(|row| !kept.contains(row));
        self.free.extend(ended.map(|row| self.rows[row].place));
        self.rows = kept.iter().map(|&row| self.rows[row]).collect();
    }

    fn grow(&mut self, capacity: usize) {
        let (old, new) = (self.capacity * self.head_dim, capacity * self.head_dim);
        for layer in &mut self.layers {
            for values in [&mut layer.keys, &mut layer.values] {
                let mut grown = vec![0.0; self.places * self.kv_heads * new];
                if old > 0 {
                    for (to, from) in grown.chunks_mut(new).zip(values.chunks(old)) {
                        to[..old].copy_from_slice(from);
                    }
                }
                *values = grown;
            }
        }
        self.capacity = capacity;
    }

    fn place_size(&self) -> usize {
        self.kv_heads * self.capacity * self.head_dim
    }

    fn start(&self, row: usize, head: usize) -> usize {
        self.rows[row].place * self.place_size() + head * self.capacity * self.head_dim
    }
}
