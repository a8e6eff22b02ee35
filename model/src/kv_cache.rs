//! Keys and values of the tokens that a generation has already seen.

use std::ops::Range;

use burn::tensor::Tensor;

/// The cache of all layers, for a batch of `rows` sequences of equal cached length.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    pub layers: Vec<LayerCache>,
    /// Cached positions a row.
    pub length: usize,
}

/// One layer: `[rows, length, kv_heads · head_dim]` each, empty before the first append.
#[derive(Debug, Clone, Default)]
pub struct LayerCache {
    keys: Option<Tensor<3>>,
    values: Option<Tensor<3>>,
}

impl KvCache {
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![LayerCache::default(); layers],
            length: 0,
        }
    }

    /// Forgets all but the first `length` positions.
    pub fn truncate(&mut self, length: usize) {
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values] {
                *tensor = tensor.take().filter(|_| length > 0).map(|cached| {
                    let [rows, _, width] = cached.dims();
                    cached.slice([0..rows, 0..length, 0..width])
                });
            }
        }
        self.length = length;
    }

    /// Keeps only the given rows, in the given order, without their first `skipped` positions.
    pub fn select_rows(&mut self, rows: &[usize], skipped: usize) {
        self.length -= skipped;
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values] {
                *tensor = tensor.take().filter(|_| !rows.is_empty()).map(|cached| {
                    let [_, length, width] = cached.dims();
                    let row = |&row: &usize| {
                        let kept = [row..row + 1, skipped..length, 0..width];
                        cached.clone().slice(kept)
                    };
                    Tensor::cat(rows.iter().map(row).collect(), 0)
                });
            }
        }
    }

    /// All rows as one, one behind the other.
    pub fn into_one_row(mut self) -> Self {
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values] {
                *tensor = tensor.take().map(|cached| {
                    let [rows, length, width] = cached.dims();
                    self.length = rows * length;
                    cached.reshape([1, rows * length, width])
                });
            }
        }
        self
    }

    /// Adds rows: stretches of the one row of another cache. All rows then have `length` positions, which is not less than
    /// any has; what is missing is zeros in front.
    pub fn add_rows(&mut self, from: &Self, ranges: &[Range<usize>], length: usize) {
        self.length = length;
        for (layer, from) in self.layers.iter_mut().zip(&from.layers) {
            for (to, from) in [
                (&mut layer.keys, &from.keys),
                (&mut layer.values, &from.values),
            ] {
                let Some(from) = from else { continue };
                let width = from.dims()[2];
                let new = ranges.iter().map(|range| {
                    let row = from.clone().slice([0..1, range.clone(), 0..width]);
                    padded_in_front(row, length)
                });
                let old = to.take().map(|cached| padded_in_front(cached, length));
                *to = Some(Tensor::cat(old.into_iter().chain(new).collect(), 0));
            }
        }
    }
}

fn padded_in_front(cached: Tensor<3>, length: usize) -> Tensor<3> {
    let [rows, old, width] = cached.dims();
    if old == length {
        return cached;
    }
    let options = (&cached.device(), cached.dtype());
    let zeros = Tensor::<3>::zeros([rows, length - old, width], options);
    Tensor::cat(vec![zeros, cached], 1)
}

impl LayerCache {
    /// Keys and values `[rows, length, width]`.
    pub fn from_tensors(keys: Tensor<3>, values: Tensor<3>) -> Self {
        Self {
            keys: Some(keys),
            values: Some(values),
        }
    }

    /// All cached keys and values, `[rows, length, width]`.
    ///
    /// # Panics
    /// When nothing has been appended.
    pub fn into_tensors(self) -> (Tensor<3>, Tensor<3>) {
        match (self.keys, self.values) {
            (Some(keys), Some(values)) => (keys, values),
            _ => panic!("an empty cache"),
        }
    }

    /// Adds keys and values `[rows · new, width]` and returns all cached ones as `[rows · total, width]`.
    pub fn append(&mut self, k: Tensor<2>, v: Tensor<2>, rows: usize) -> (Tensor<2>, Tensor<2>) {
        (
            append(&mut self.keys, k, rows),
            append(&mut self.values, v, rows),
        )
    }
}

fn append(cached: &mut Option<Tensor<3>>, new: Tensor<2>, rows: usize) -> Tensor<2> {
    let [tokens, width] = new.dims();
    let new = new.reshape([rows, tokens / rows, width]);
    let all = match cached.take() {
        Some(old) => Tensor::cat(vec![old, new], 1),
        None => new,
    };
    *cached = Some(all.clone());
    let [rows, length, width] = all.dims();
    all.reshape([rows * length, width])
}
