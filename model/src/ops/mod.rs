//! The operations that decide speed and memory, each with its backward pass.
//!
//! Every operation is a pair of plain functions over tensors outside autodiff: the trainer walks the
//! blocks backwards itself, so no graph is recorded. On the CPU an operation reads slices and runs a
//! fused loop; on any other device it is composed from Burn's tensor operations, which is also what the
//! tests compare the fused loop with.

pub mod adapted_rows;
pub mod attention;
pub(crate) mod attention_host;
pub mod block_matrix;
pub mod block_rounding;
#[cfg(test)]
pub(crate) mod check;
#[cfg(feature = "cube")]
pub mod cube;
pub mod embedding;
pub mod host;
pub mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_avx2;
#[cfg(target_arch = "x86_64")]
mod lanes_avx512;
pub mod low_rank;
pub mod nf4_tensors;
pub mod packed_product;
pub mod product;
pub mod real;
pub mod residual;
pub mod rms_norm;
pub mod rope;
pub mod row_product;
pub mod simd;
pub mod sum_product;
pub mod swiglu;
pub mod team;
pub mod vector_math;
