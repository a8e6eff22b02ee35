//! Spans that `distill run --profile` listens to: what runs, and how many bytes and floating-point
//! operations that takes. Where nobody listens a span is one relaxed load, and its cost is not computed.

use burn::tensor::{DType, Tensor};
pub use tracing;
use tracing::Span;
use tracing::span::EnteredSpan;

use crate::linear::Weight;

/// Target of [`step!`](crate::step): what a profile divides by.
pub const STEP: &str = "profile::step";
/// Target of [`phase!`](crate::phase): a part of a step.
pub const PHASE: &str = "profile::phase";
/// Target of [`operation!`](crate::operation): work whose cost is known.
pub const OPERATION: &str = "profile::operation";

/// A step of training, or another unit that repeats, until the value that this gives is dropped.
#[macro_export]
macro_rules! step {
    ($name:literal) => {
        $crate::span::tracing::trace_span!(target: $crate::span::STEP, $name).entered()
    };
}

/// A part of a step, until the value that this gives is dropped.
#[macro_export]
macro_rules! phase {
    ($name:literal) => {
        $crate::span::tracing::trace_span!(target: $crate::span::PHASE, $name).entered()
    };
}

/// An operation of this name and [`Cost`], until the value that this gives is dropped.
#[macro_export]
macro_rules! operation {
    ($name:literal, $cost:expr) => {
        $crate::span::entered(
            $crate::span::tracing::trace_span!(
                target: $crate::span::OPERATION,
                $name,
                bytes = $crate::span::tracing::field::Empty,
                flops = $crate::span::tracing::field::Empty
            ),
            || $cost,
        )
    };
}

/// What an operation has to do at least: each array counts once for each time that it has to be read or written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub bytes: u64,
    pub flops: u64,
}

impl Cost {
    /// Reads or writes so many numbers of this type.
    pub fn numbers(count: usize, dtype: DType) -> Self {
        let bytes = count as u64 * size(dtype);
        Self { bytes, flops: 0 }
    }

    /// Reads or writes each of these arrays once.
    pub fn arrays<'a>(arrays: impl IntoIterator<Item = &'a Tensor<2>>) -> Self {
        let bytes = (arrays.into_iter()).map(|x| elements(x) * size(x.dtype()));
        let bytes = bytes.sum();
        Self { bytes, flops: 0 }
    }

    /// The product of two matrices over their common dimension `inner`, in the dtype of `a`.
    pub fn product(a: &Tensor<2>, b: &Tensor<2>, inner: usize) -> Self {
        let inner = inner.max(1) as u64;
        let (rows, columns) = (elements(a) / inner, elements(b) / inner);
        Self {
            bytes: Self::arrays([a, b]).bytes + rows * columns * size(a.dtype()),
            flops: 2 * rows * columns * inner,
        }
    }

    /// The product of `x` with a weight or its transpose.
    pub fn weight_product(x: &Tensor<2>, weight: &Weight) -> Self {
        let [tokens, columns] = x.dims();
        let values = weight.rows() * weight.columns();
        let out = tokens * (values / columns.max(1));
        Self {
            bytes: Self::arrays([x]).bytes + weight.bytes() as u64 + out as u64 * size(x.dtype()),
            flops: 2 * tokens as u64 * values as u64,
        }
    }

    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.flops += other.flops;
    }

    pub fn with_flops(self, flops: u64) -> Self {
        Self { flops, ..self }
    }
}

fn elements(x: &Tensor<2>) -> u64 {
    x.dims().iter().product::<usize>() as u64
}

fn size(dtype: DType) -> u64 {
    dtype.size() as u64
}

/// Enters a span with its cost, which is computed only if somebody listens.
pub fn entered(span: Span, cost: impl FnOnce() -> Cost) -> EnteredSpan {
    if !span.is_disabled() {
        let Cost { bytes, flops } = cost();
        span.record("bytes", bytes);
        span.record("flops", flops);
    }
    span.entered()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::random;

    #[test]
    fn costs_follow_from_shapes() {
        let (a, b) = (random([3, 5], 1), random([7, 5], 2));
        assert_eq!(Cost::arrays([&a, &b]).bytes, 8 * (15 + 35));
        let product = Cost::product(&a, &b, 5);
        assert_eq!(product.bytes, 8 * (15 + 35 + 21));
        assert_eq!(product.flops, 2 * 3 * 5 * 7);
    }
}
