//! `Lanes` in AVX2.
//!
//! Safety of the intrinsics: a value of `Avx2` exists only where `detect` has found the instructions.

use std::arch::x86_64::*;

use super::lanes::{Kernel, LANES, Lanes};

/// AVX2 with FMA and F16C: two vectors of eight.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    #[inline]
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel>(lanes: Avx2, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` is the proof.
        unsafe { compiled(self, kernel) }
    }
}

impl Lanes for Avx2 {
    type Floats = [__m256; 2];
    type Integers = [__m256i; 2];

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [__m256; 2] {
        let at = values.as_ptr();
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }
    #[inline(always)]
    fn store(self, floats: [__m256; 2], values: &mut [f32; LANES]) {
        let at = values.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(at, floats[0]);
            _mm256_storeu_ps(at.add(8), floats[1]);
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    fn sum(self, floats: [__m256; 2]) -> f32 {
        unsafe { sum_of_eight(_mm256_add_ps(floats[0], floats[1])) }
    }
    #[inline(always)]
    fn halves(self, bytes: &[u8; 2 * LANES]) -> [__m256; 2] {
        let at: *const __m128i = bytes.as_ptr().cast();
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(at)),
                _mm256_cvtph_ps(_mm_loadu_si128(at.add(1))),
            ]
        }
    }
    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        unsafe { half(bytes) }
    }
    #[inline(always)]
    fn two_halves(self, bytes: [u8; 4]) -> [f32; 2] {
        unsafe { two_halves(bytes) }
    }
    #[inline(always)]
    fn unsigned_bytes(self, bytes: &[u8; LANES]) -> [__m256i; 2] {
        let at = bytes.as_ptr();
        unsafe {
            [
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    fn signed_bytes(self, bytes: &[u8; LANES]) -> [__m256i; 2] {
        let at = bytes.as_ptr();
        unsafe {
            [
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    fn unsigned_words(self, bytes: &[u8; 2 * LANES]) -> [__m256i; 2] {
        let at: *const __m128i = bytes.as_ptr().cast();
        unsafe {
            [
                _mm256_cvtepu16_epi32(_mm_loadu_si128(at)),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(1))),
            ]
        }
    }
    #[inline(always)]
    fn spread_bits(self, bits: u16) -> [__m256i; 2] {
        let bits = i32::from(bits);
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let (low, high) = (_mm256_set1_epi32(bits), _mm256_set1_epi32(bits >> 8));
            self.and(
                [
                    _mm256_srlv_epi32(low, lanes),
                    _mm256_srlv_epi32(high, lanes),
                ],
                1,
            )
        }
    }
    #[inline(always)]
    fn and(self, a: [__m256i; 2], mask: i32) -> [__m256i; 2] {
        unsafe {
            let mask = _mm256_set1_epi32(mask);
            [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)]
        }
    }
    #[inline(always)]
    fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn shift_left<const N: u32>(self, a: [__m256i; 2]) -> [__m256i; 2] {
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [_mm256_sll_epi32(a[0], count), _mm256_sll_epi32(a[1], count)]
        }
    }
    #[inline(always)]
    fn shift_right<const N: u32>(self, a: [__m256i; 2]) -> [__m256i; 2] {
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [_mm256_srl_epi32(a[0], count), _mm256_srl_epi32(a[1], count)]
        }
    }
    #[inline(always)]
    fn to_floats(self, a: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
    #[inline(always)]
    fn as_floats(self, a: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] }
    }
}

/// # Safety
/// The machine has F16C.
#[inline(always)]
pub(super) unsafe fn half(bytes: [u8; 2]) -> f32 {
    unsafe {
        let bits = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)));
        _mm_cvtss_f32(_mm_cvtph_ps(bits))
    }
}

/// # Safety
/// The machine has F16C.
#[inline(always)]
pub(super) unsafe fn two_halves(bytes: [u8; 4]) -> [f32; 2] {
    unsafe {
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes(bytes)));
        [_mm_cvtss_f32(both), _mm_cvtss_f32(_mm_movehdup_ps(both))]
    }
}

/// # Safety
/// The machine has AVX.
#[inline(always)]
pub(super) unsafe fn sum_of_eight(floats: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(floats),
            _mm256_extractf128_ps::<1>(floats),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
