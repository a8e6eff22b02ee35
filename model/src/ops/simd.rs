//! Runs a kernel in the widest vector instructions that the machine has.

/// Runs `kernel`, a closure marked `#[inline(always)]` over inlined scalar loops, compiled for AVX-512, for AVX2, or for the target's baseline (which on AArch64 is NEON).
#[inline]
pub fn widest<T>(kernel: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the features have just been found.
            return unsafe { avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature has just been found.
            return unsafe { avx2(kernel) };
        }
    }
    kernel()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn avx512<T>(kernel: impl FnOnce() -> T) -> T {
    kernel()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<T>(kernel: impl FnOnce() -> T) -> T {
    kernel()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::ops::vector_math::{exp, ln};

    #[inline(always)]
    fn kernel(x: [f32; 256]) -> [u32; 256] {
        x.map(|x| (exp(x) + ln(x * x + 0.1)).to_bits())
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        let x = std::array::from_fn(|i| (i as f32 - 128.0) * 0.37);
        let baseline = kernel(x);
        assert_eq!(widest(|| kernel(x)), baseline);
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature has just been found.
            assert_eq!(unsafe { avx2(|| kernel(x)) }, baseline);
        }
    }
}
