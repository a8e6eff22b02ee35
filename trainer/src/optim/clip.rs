//! The norm of all gradients together, by which clipping scales them (arXiv 1211.5063).

use burn::tensor::{DType, Tensor};
use model::ops::host::{HostTensor, is_host};
use model::ops::real::{Real, lane_sum};
use model::ops::simd::widest;
use model::parameter::Parameter;
use model::span::Cost;
use model::{for_real, operation, phase};
use rayon::prelude::*;

/// Euclidean norm of all gradients as one vector.
pub fn global_norm<'a>(parameters: impl Iterator<Item = &'a Parameter>) -> f64 {
    let _phase = phase!("gradient norm");
    parameters
        .filter_map(|parameter| parameter.gradient.as_ref())
        .map(square_sum)
        .sum::<f64>()
        .sqrt()
}

/// What gradients are multiplied by so that their norm is at most `limit`.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if norm > limit { limit / norm } else { 1.0 }
}

/// The sum of squares of each tensor; a device is waited for once.
pub fn square_sums(tensors: &[&Tensor<2>]) -> Vec<f64> {
    #[cfg(feature = "cube")]
    if tensors.iter().all(|x| model::ops::cube::runs(x)) {
        return super::cube::norm::square_sums(tensors);
    }
    tensors.iter().map(|x| square_sum(x)).collect()
}

/// Sum of squares in fixed blocks, combined in order: the same bits on any number of threads.
pub fn square_sum(gradient: &Tensor<2>) -> f64 {
    let _span = operation!("square sum", Cost::arrays([gradient]));
    if !is_host(gradient) {
        let squares = gradient.clone().cast(DType::F32).square().sum();
        return f64::from(squares.into_scalar::<f32>());
    }
    for_real!(gradient.dtype(), F, {
        let host = HostTensor::of(gradient).expect("checked to be on the CPU");
        let blocks: Vec<f64> = host
            .slice::<F>()
            .par_chunks(4096)
            .map(block_square_sum)
            .collect();
        blocks.iter().sum()
    })
}

fn block_square_sum<F: Real>(block: &[F]) -> f64 {
    widest(
        #[inline(always)]
        || lane_sum(block.len(), |i| block[i] * block[i]).to_f64(),
    )
}
