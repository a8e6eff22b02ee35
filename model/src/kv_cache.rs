//! Keys and values of the tokens that a generation has already seen.

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
                *tensor = (tensor.take().filter(|_| length > 0)).map(|cached| {
                    let [rows, _, width] = cached.dims();
                    cached.slice([0..rows, 0..length, 0..width])
                });
            }
        }
        self.length = length;
    }

    /// Keeps only the given rows, in the given order.
    pub fn select_rows(&mut self, rows: &[usize]) {
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values].into_iter().flatten() {
                let [_, length, width] = tensor.dims();
                let kept = rows
                    .iter()
                    .map(|&row| tensor.clone().slice([row..row + 1, 0..length, 0..width]))
                    .collect();
                *tensor = Tensor::cat(kept, 0);
            }
        }
    }
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
