//! Runs a kernel in the widest vector instructions that the machine has.

/// A kernel of inlined scalar loops. `run` must be `#[inline(always)]`, so that it is compiled anew for each level.
pub(super) trait Kernel {
    type Output;
    fn run(self) -> Self::Output;
}

/// Runs `kernel` compiled for AVX-512, for AVX2, or for the target's baseline (which on AArch64 is NEON).
#[inline]
pub(super) fn widest<K: Kernel>(kernel: K) -> K::Output {
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
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::vector_math::{exp, ln};
    use super::*;

    struct RoundTrip([f32; 256]);

    impl Kernel for RoundTrip {
        type Output = [u32; 256];
        #[inline(always)]
        fn run(self) -> [u32; 256] {
            self.0.map(|x| (exp(x) + ln(x * x + 0.1)).to_bits())
        }
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        let x = std::array::from_fn(|i| (i as f32 - 128.0) * 0.37);
        let baseline = RoundTrip(x).run();
        assert_eq!(widest(RoundTrip(x)), baseline);
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature has just been found.
            assert_eq!(unsafe { avx2(RoundTrip(x)) }, baseline);
        }
    }
}
