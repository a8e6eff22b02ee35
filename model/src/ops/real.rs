//! The floating-point types that CPU loops run in, and the functions that such loops need.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use burn::tensor::Element;

use super::vector_math;

/// `f32` for work, `f64` for tests of exactness.
pub trait Real:
    Element
    + bytemuck::Pod
    + Copy
    + Debug
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    /// Stands in for −∞ inside loss kernels, so that differences of logits stay numbers. Logits at or
    /// below it count as −∞.
    const MASKED: Self;

    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    /// e^self; for `f32` the branch-free one of [`vector_math`].
    fn exp(self) -> Self;
    /// ln self; likewise.
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn maximum(self, other: Self) -> Self;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    const MASKED: Self = -1e30;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        vector_math::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        vector_math::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    const MASKED: Self = -1e30;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// Sum of `f(i)` over `0..n` in sixteen lanes, so that it vectorises and does not depend on threads.
#[inline(always)]
pub fn lane_sum<F: Real>(n: usize, f: impl Fn(usize) -> F) -> F {
    let mut lanes = [F::ZERO; 16];
    let whole = n / 16 * 16;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(i + lane);
        }
        i += 16;
    }
    let mut total = F::ZERO;
    for sum in lanes {
        total += sum;
    }
    for i in whole..n {
        total += f(i);
    }
    total
}

/// Runs `f`, a bound for a dtype name, as `f32` or `f64` code.
///
/// # Panics
/// On any other dtype: CPU tensors of this project are `f32`, or `f64` in tests.
#[macro_export]
macro_rules! for_real {
    ($dtype:expr, $real:ident, $body:block) => {
        match $dtype {
            burn::tensor::DType::F32 => {
                type $real = f32;
                $body
            }
            burn::tensor::DType::F64 => {
                type $real = f64;
                $body
            }
            other => panic!("CPU operations run in f32 or f64, not in {other:?}"),
        }
    };
}
