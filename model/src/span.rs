//! Spans that `distill run --profile` listens to: what runs, and how many bytes and floating-point
//! operations that takes. Where nobody listens a span is one relaxed load, and its cost is not computed.

use burn::tensor::{DType, Tensor};
pub use tracing;
use tracing::Span;
use tracing::span::EnteredSpan;

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
    use std::hint::black_box;
    use std::time::Instant;

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

    #[test]
    fn a_span_that_nobody_listens_to_takes_less_than_ten_nanoseconds() {
        const SPANS: u32 = 10_000;
        let x = random([3, 5], 1);
        let nanoseconds = |_| {
            let clock = Instant::now();
            for _ in 0..SPANS {
                let x = black_box(&x);
                let _span = operation!("test", Cost::arrays([x, x]));
            }
            clock.elapsed().as_secs_f64() * 1e9 / f64::from(SPANS)
        };
        // The best of many: other work on the machine only ever adds.
        let best = (0..100).map(nanoseconds).fold(f64::INFINITY, f64::min);
        println!("{best:.2} ns");
        assert!(best < 10.0, "{best} ns");
    }
}
