//! Attention in tiles of queries: products stay with Burn's tuned kernels, what lies between them is one kernel a row.
//!
//! The query heads that share a key/value head are stacked under one another, so that keys and values are never repeated
//! and the products themselves add up the group's gradients.

use burn::backend::{Cube, DType};
use burn::tensor::Tensor;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use cubecl::prelude::*;

use super::reduce::{largest_of_units, sum_of_units};
use super::{CubeTensor, UNITS, buffer, element, empty, tensor, upload, workgroups};
use crate::ops::attention::{AttentionOutput, AttentionPattern};

/// Most queries of a tile.
const TILE: usize = 512;

/// Bytes of scores held at a time, unless the fewest queries of a tile need more.
const SCORE_BYTES: usize = 256 << 20;

/// As [`crate::ops::attention::forward`].
pub fn forward(
    pattern: &AttentionPattern,
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
) -> AttentionOutput {
    let dtype = q.dtype();
    let (q, k, v) = (
        stacked(pattern, q),
        per_kv_head(pattern, k),
        per_kv_head(pattern, v),
    );
    let like = buffer(&q);
    let visible = upload_visible(pattern, &like);
    let queries = pattern.rows * pattern.query_length;
    let log_sum_exp = empty(&like, [queries, pattern.heads], DType::F32);
    let out = tiles(pattern).map(|tile| {
        let Some(keys) = tile.keys() else {
            return zeros(pattern, &tile, &q);
        };
        let scores = product(tile.queries(pattern, &q), keys(&k).transpose());
        let probabilities = softmax(pattern, &tile, &scores, &visible, &log_sum_exp, dtype);
        unstack(pattern, &tile, product(probabilities, keys(&v)).cast(dtype))
    });
    AttentionOutput {
        out: join(pattern, out.collect()),
        log_sum_exp: Some(tensor(log_sum_exp)),
    }
}

/// As [`crate::ops::attention::backward`].
pub fn backward(
    pattern: &AttentionPattern,
    d_out: &Tensor<2>,
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
    (out, log_sum_exp): (&Tensor<2>, &Tensor<2>),
) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let dtype = q.dtype();
    let flat = [buffer(out), buffer(d_out), buffer(log_sum_exp)];
    let (q, d_out) = (stacked(pattern, q), stacked(pattern, d_out));
    let (k, v) = (per_kv_head(pattern, k), per_kv_head(pattern, v));
    let visible = upload_visible(pattern, &flat[0]);
    let wide = (&k.device(), DType::F32);
    let (mut dk, mut dv) = (Tensor::zeros(k.dims(), wide), Tensor::zeros(k.dims(), wide));
    let mut dq = Vec::new();
    for tile in tiles(pattern) {
        let Some(keys) = tile.keys() else {
            dq.push(zeros(pattern, &tile, &q));
            continue;
        };
        let (tile_q, tile_d_out) = (tile.queries(pattern, &q), tile.queries(pattern, &d_out));
        let scores = product(tile_q.clone(), keys(&k).transpose());
        let d_probabilities = product(tile_d_out.clone(), keys(&v).transpose());
        let (p, ds) = score_gradient(pattern, &tile, (&scores, &d_probabilities), &visible, &flat);
        drop((scores, d_probabilities));
        dv = tile.add_to_keys(dv, product(p.transpose(), tile_d_out));
        dk = tile.add_to_keys(dk, product(ds.clone().transpose(), tile_q));
        dq.push(unstack(pattern, &tile, product(ds, keys(&k)).cast(dtype)));
    }
    (
        join(pattern, dq),
        join_keys(pattern, dk).cast(dtype),
        join_keys(pattern, dv).cast(dtype),
    )
}

/// Queries `start..end` of every row, and the keys that any of them sees.
struct Tile {
    start: usize,
    end: usize,
    first_key: usize,
    last_key: usize,
}

fn tiles(pattern: &AttentionPattern) -> impl Iterator<Item = Tile> {
    let a_query = 4 * pattern.rows * pattern.heads * pattern.key_length;
    let length = (SCORE_BYTES / a_query.max(1)).clamp(16, TILE);
    let starts = (0..pattern.query_length).step_by(length);
    starts.map(move |start| Tile::new(pattern, start, length))
}

impl Tile {
    fn new(pattern: &AttentionPattern, start: usize, length: usize) -> Self {
        let end = (start + length).min(pattern.query_length);
        let seeing = pattern
            .visible
            .chunks(pattern.query_length)
            .flat_map(|row| &row[start..end])
            .filter(|(first, last)| first < last);
        let first_key = seeing.clone().map(|range| range.0).min().unwrap_or(0);
        let last_key = seeing.map(|range| range.1).max().unwrap_or(0);
        Self {
            start,
            end,
            first_key: first_key as usize,
            last_key: last_key as usize,
        }
    }

    /// Takes these keys out of `[rows · kv_heads, key_length, head_dim]`; `None` where no query sees any.
    fn keys(&self) -> Option<impl Fn(&Tensor<3>) -> Tensor<3>> {
        let range = self.first_key..self.last_key;
        let take = move |x: &Tensor<3>| {
            let [heads, _, head_dim] = x.dims();
            x.clone().slice([0..heads, range.clone(), 0..head_dim])
        };
        (self.first_key < self.last_key).then_some(take)
    }

    /// These queries of a stack: `[rows · kv_heads, group · queries, head_dim]`.
    fn queries(&self, pattern: &AttentionPattern, x: &Tensor<5>) -> Tensor<3> {
        let [rows, kv_heads, group, _, head_dim] = x.dims();
        let range = self.start..self.end;
        let length = range.len();
        debug_assert_eq!(head_dim, pattern.head_dim);
        x.clone()
            .slice([0..rows, 0..kv_heads, 0..group, range, 0..head_dim])
            .reshape([rows * kv_heads, group * length, head_dim])
    }

    fn add_to_keys(&self, sum: Tensor<3>, part: Tensor<3>) -> Tensor<3> {
        let [heads, length, head_dim] = sum.dims();
        if part.dims()[1] == length {
            return sum + part;
        }
        let range = [0..heads, self.first_key..self.last_key, 0..head_dim];
        let part = sum.clone().slice(range.clone()) + part;
        sum.slice_assign(range, part)
    }
}

/// Probabilities of a tile in `dtype`; fills in its part of `log_sum_exp`.
fn softmax(
    pattern: &AttentionPattern,
    tile: &Tile,
    scores: &Tensor<3>,
    visible: &CubeTensor,
    log_sum_exp: &CubeTensor,
    dtype: DType,
) -> Tensor<3> {
    let scores = buffer(scores);
    let shape: [usize; 3] = scores.meta.shape().dims();
    let probabilities = empty(&scores, shape, dtype);
    softmax_kernel::launch(
        &scores.client.clone(),
        workgroups(shape[0] * shape[1]),
        CubeDim::new_1d(UNITS),
        scores.into_buffer_arg(),
        visible.clone().into_buffer_arg(),
        probabilities.clone().into_buffer_arg(),
        log_sum_exp.clone().into_buffer_arg(),
        row_launch(pattern, tile),
        element(dtype),
    );
    tensor(probabilities)
}

/// Probabilities of a tile and the gradient of its scores, from scores and gradient of the probabilities.
fn score_gradient(
    pattern: &AttentionPattern,
    tile: &Tile,
    (scores, d_probabilities): (&Tensor<3>, &Tensor<3>),
    visible: &CubeTensor,
    [out, d_out, log_sum_exp]: &[CubeTensor; 3],
) -> (Tensor<3>, Tensor<3>) {
    let (scores, d_probabilities) = (buffer(scores), buffer(d_probabilities));
    let shape: [usize; 3] = scores.meta.shape().dims();
    let (p, ds) = (
        empty(&scores, shape, out.dtype),
        empty(&scores, shape, out.dtype),
    );
    score_gradient_kernel::launch(
        &scores.client.clone(),
        workgroups(shape[0] * shape[1]),
        CubeDim::new_1d(UNITS),
        scores.into_buffer_arg(),
        d_probabilities.into_buffer_arg(),
        visible.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        d_out.clone().into_buffer_arg(),
        log_sum_exp.clone().into_buffer_arg(),
        p.clone().into_buffer_arg(),
        ds.clone().into_buffer_arg(),
        pattern.head_dim,
        row_launch(pattern, tile),
        element(out.dtype),
    );
    (tensor(p), tensor(ds))
}

/// What a row kernel knows of its tile.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct TileRows {
    /// Rows of scores in all.
    count: usize,
    /// Queries of the tile in each row of the batch.
    queries: usize,
    first_query: usize,
    query_length: usize,
    first_key: usize,
    keys: usize,
    heads: usize,
    scale: f32,
}

fn row_launch(pattern: &AttentionPattern, tile: &Tile) -> TileRowsLaunch {
    let queries = tile.end - tile.start;
    TileRowsLaunch::new(
        pattern.rows * pattern.heads * queries,
        queries,
        tile.start,
        pattern.query_length,
        tile.first_key,
        tile.last_key - tile.first_key,
        pattern.heads,
        pattern.scale() as f32,
    )
}

/// Of one row of scores: the query over the whole batch, times heads, plus the head.
#[cube]
fn query_and_head(row: usize, tile: &TileRows) -> usize {
    let head_of_batch = row / tile.queries;
    let batch_row = head_of_batch / tile.heads;
    let query = batch_row * tile.query_length + tile.first_query + row % tile.queries;
    query * tile.heads + head_of_batch % tile.heads
}

#[cube(launch)]
fn softmax_kernel<F: Float>(
    scores: &[f32],
    visible: &[u32],
    probabilities: &mut [F],
    log_sum_exp: &mut [f32],
    tile: TileRows,
    #[define(F)] _type: ElemType,
) {
    let row = CUBE_POS;
    if row >= tile.count {
        terminate!();
    }
    let at = query_and_head(row, &tile);
    let query = at / tile.heads;
    let first = visible[2 * query] as usize;
    let last = visible[2 * query + 1] as usize;
    let start = row * tile.keys;
    let mut shared = Shared::new_slice(UNITS as usize);

    let mut largest = f32::new(-1e30);
    let mut key = UNIT_POS as usize;
    while key < tile.keys {
        let seen = key + tile.first_key >= first && key + tile.first_key < last;
        if seen && scores[start + key] > largest {
            largest = scores[start + key];
        }
        key += CUBE_DIM as usize;
    }
    let largest = largest_of_units(largest, &mut shared);

    let mut sum = 0.0f32;
    let mut key = UNIT_POS as usize;
    while key < tile.keys {
        if key + tile.first_key >= first && key + tile.first_key < last {
            sum += ((scores[start + key] - largest) * tile.scale).exp();
        }
        key += CUBE_DIM as usize;
    }
    let sum = sum_of_units(sum, &mut shared);

    let mut key = UNIT_POS as usize;
    while key < tile.keys {
        let mut p = 0.0f32;
        if key + tile.first_key >= first && key + tile.first_key < last {
            p = ((scores[start + key] - largest) * tile.scale).exp() / sum;
        }
        probabilities[start + key] = F::cast_from(p);
        key += CUBE_DIM as usize;
    }
    if UNIT_POS == 0 {
        log_sum_exp[at] = largest * tile.scale + sum.ln();
    }
}

#[cube(launch)]
fn score_gradient_kernel<F: Float>(
    scores: &[f32],
    d_probabilities: &[f32],
    visible: &[u32],
    out: &[F],
    d_out: &[F],
    log_sum_exp: &[f32],
    probabilities: &mut [F],
    d_scores: &mut [F],
    head_dim: usize,
    tile: TileRows,
    #[define(F)] _type: ElemType,
) {
    let row = CUBE_POS;
    if row >= tile.count {
        terminate!();
    }
    let at = query_and_head(row, &tile);
    let query = at / tile.heads;
    let first = visible[2 * query] as usize;
    let last = visible[2 * query + 1] as usize;
    let start = row * tile.keys;
    let mut shared = Shared::new_slice(UNITS as usize);

    let mut inner = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < head_dim {
        let at = at * head_dim + i;
        inner += f32::cast_from(out[at]) * f32::cast_from(d_out[at]);
        i += CUBE_DIM as usize;
    }
    let inner = sum_of_units(inner, &mut shared);

    let mut key = UNIT_POS as usize;
    while key < tile.keys {
        let mut p = 0.0f32;
        let mut ds = 0.0f32;
        if key + tile.first_key >= first && key + tile.first_key < last {
            p = (scores[start + key] * tile.scale - log_sum_exp[at]).exp();
            ds = p * (d_probabilities[start + key] - inner) * tile.scale;
        }
        probabilities[start + key] = F::cast_from(p);
        d_scores[start + key] = F::cast_from(ds);
        key += CUBE_DIM as usize;
    }
}

/// a·b with sums and result in `f32`, whatever the inputs are.
fn product(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let primitive = |x: Tensor<3>| {
        x.try_into_primitive::<Cube>()
            .expect("checked to be on a device")
    };
    let (a, b) = (primitive(a), primitive(b));
    let product = matmul(a, b, None, MatmulStrategy::default(), DType::F32);
    tensor(product.expect("matrices that fit"))
}

fn upload_visible(pattern: &AttentionPattern, like: &CubeTensor) -> CubeTensor {
    let ranges: Vec<u32> = pattern.visible.iter().flat_map(|r| [r.0, r.1]).collect();
    upload(like, &ranges)
}

/// `[rows · query_length, heads · head_dim]` as `[rows, kv_heads, group, query_length, head_dim]`.
fn stacked(pattern: &AttentionPattern, x: &Tensor<2>) -> Tensor<5> {
    let group = pattern.heads / pattern.kv_heads;
    x.clone()
        .reshape([
            pattern.rows,
            pattern.query_length,
            pattern.kv_heads,
            group,
            pattern.head_dim,
        ])
        .permute([0, 2, 3, 1, 4])
}

/// `[rows · key_length, kv_heads · head_dim]` as `[rows · kv_heads, key_length, head_dim]`.
fn per_kv_head(pattern: &AttentionPattern, x: &Tensor<2>) -> Tensor<3> {
    let (rows, kv_heads, head_dim) = (pattern.rows, pattern.kv_heads, pattern.head_dim);
    x.clone()
        .reshape([rows, pattern.key_length, kv_heads, head_dim])
        .swap_dims(1, 2)
        .reshape([rows * kv_heads, pattern.key_length, head_dim])
}

/// The inverse of [`per_kv_head`].
fn join_keys(pattern: &AttentionPattern, x: Tensor<3>) -> Tensor<2> {
    let (rows, kv_heads, head_dim) = (pattern.rows, pattern.kv_heads, pattern.head_dim);
    x.reshape([rows, kv_heads, pattern.key_length, head_dim])
        .swap_dims(1, 2)
        .reshape([rows * pattern.key_length, kv_heads * head_dim])
}

/// The result of a tile's product, as a part of [`stacked`].
fn unstack(pattern: &AttentionPattern, tile: &Tile, x: Tensor<3>) -> Tensor<5> {
    x.reshape(tile_shape(pattern, tile))
}

fn zeros(pattern: &AttentionPattern, tile: &Tile, like: &Tensor<5>) -> Tensor<5> {
    let options = (&like.device(), like.dtype());
    Tensor::zeros(tile_shape(pattern, tile), options)
}

fn tile_shape(pattern: &AttentionPattern, tile: &Tile) -> [usize; 5] {
    [
        pattern.rows,
        pattern.kv_heads,
        pattern.heads / pattern.kv_heads,
        tile.end - tile.start,
        pattern.head_dim,
    ]
}

/// The tiles of a stack put together: the inverse of [`stacked`].
fn join(pattern: &AttentionPattern, tiles: Vec<Tensor<5>>) -> Tensor<2> {
    Tensor::cat(tiles, 3).permute([0, 3, 1, 2, 4]).reshape([
        pattern.rows * pattern.query_length,
        pattern.heads * pattern.head_dim,
    ])
}
