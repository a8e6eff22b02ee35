//! `Lanes` in AVX-512 and AVX2.
//!
//! Safety of the intrinsics: a value of `Avx512` or `Avx2` exists only where `detect` has found the instructions.

use std::arch::x86_64::*;

use super::lanes::{Kernel, LANES, Lanes};

/// AVX-512 with the instructions that every processor with it has had since 2017.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

/// AVX2 with FMA and F16C: two vectors of eight.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx512 {
    #[inline]
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
        fn compiled<K: Kernel>(lanes: Avx512, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` is the proof.
        unsafe { compiled(self, kernel) }
    }
}

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

impl Lanes for Avx512 {
    type Floats = __m512;
    type Integers = __m512i;

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, floats: __m512, values: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), floats) }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sum(self, floats: __m512) -> f32 {
        unsafe {
            sum_of_eight(_mm256_add_ps(
                _mm512_castps512_ps256(floats),
                _mm512_extractf32x8_ps::<1>(floats),
            ))
        }
    }
    #[inline(always)]
    fn halves(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        unsafe { half(bytes) }
    }
    #[inline(always)]
    fn unsigned_bytes(self, bytes: &[u8; LANES]) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn signed_bytes(self, bytes: &[u8; LANES]) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn unsigned_words(self, bytes: &[u8; 2 * LANES]) -> __m512i {
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn spread_bits(self, bits: u16) -> __m512i {
        unsafe { _mm512_maskz_set1_epi32(bits, 1) }
    }
    #[inline(always)]
    fn and(self, a: __m512i, mask: i32) -> __m512i {
        unsafe { _mm512_and_si512(a, _mm512_set1_epi32(mask)) }
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn shift_left<const N: u32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shift_right<const N: u32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn to_floats(self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn as_floats(self, a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }
}

impl Lanes for Avx2 {
    type Floats = [__m256; 2];
    type Integers = [__m256i; 2];

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
unsafe fn half(bytes: [u8; 2]) -> f32 {
    unsafe {
        let bits = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)));
        _mm_cvtss_f32(_mm_cvtph_ps(bits))
    }
}

/// # Safety
/// The machine has AVX.
#[inline(always)]
unsafe fn sum_of_eight(floats: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(floats),
            _mm256_extractf128_ps::<1>(floats),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
