//! Sixteen values at a time: what kernels over packed matrices need of vector instructions, in AVX-512, in AVX2, or in
//! plain loops that the compiler vectorises for its target.
//!
//! `simd::widest` compiles a scalar loop for the machine. Here the vectors are explicit, because loops that take
//! packed codes apart are not vectorised reliably.

use half::f16;

#[cfg(target_arch = "x86_64")]
pub use super::{lanes_avx2::Avx2, lanes_avx512::Avx512};

/// Values in a vector.
pub const LANES: usize = 16;

/// One instruction set. A value of the type is the proof that the machine has it.
///
/// Everything but `mul_add` gives the same bits in all of them.
pub trait Lanes: Copy {
    /// Sixteen `f32`.
    type Floats: Copy;
    /// Sixteen 32-bit integers.
    type Integers: Copy;

    /// Asks for memory that will be read soon; the address may lie beyond what there is.
    fn prefetch(self, address: *const u8);
    fn load(self, values: &[f32; LANES]) -> Self::Floats;
    fn store(self, floats: Self::Floats, values: &mut [f32; LANES]);
    fn splat(self, value: f32) -> Self::Floats;
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a · b + c, rounded once where the machine can.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The sum of the lanes: halves are added until one is left.
    fn sum(self, floats: Self::Floats) -> f32;
    /// Sixteen little-endian f16.
    fn halves(self, bytes: &[u8; 2 * LANES]) -> Self::Floats;
    /// One little-endian f16.
    fn half(self, bytes: [u8; 2]) -> f32;
    /// Two of them.
    fn two_halves(self, bytes: [u8; 4]) -> [f32; 2];

    fn unsigned_bytes(self, bytes: &[u8; LANES]) -> Self::Integers;
    fn signed_bytes(self, bytes: &[u8; LANES]) -> Self::Integers;
    /// Sixteen little-endian u16.
    fn unsigned_words(self, bytes: &[u8; 2 * LANES]) -> Self::Integers;
    /// Bit i in lane i, as 0 or 1.
    fn spread_bits(self, bits: u16) -> Self::Integers;
    fn and(self, a: Self::Integers, mask: i32) -> Self::Integers;
    fn or(self, a: Self::Integers, b: Self::Integers) -> Self::Integers;
    fn shift_left<const N: u32>(self, a: Self::Integers) -> Self::Integers;
    /// Fills with zeros.
    fn shift_right<const N: u32>(self, a: Self::Integers) -> Self::Integers;
    fn to_floats(self, a: Self::Integers) -> Self::Floats;
    /// Integers taken as the bits of floats.
    fn as_floats(self, a: Self::Integers) -> Self::Floats;
}

/// A computation that can be compiled for each instruction set. `run` is `#[inline(always)]` in implementations.
pub trait Kernel {
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs a kernel in the widest vectors that the machine has.
#[inline]
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(lanes) = Avx512::detect() {
            return lanes.run(kernel);
        }
        if let Some(lanes) = Avx2::detect() {
            return lanes.run(kernel);
        }
    }
    kernel.run(Portable)
}

/// The results in every instruction set that the machine has.
#[cfg(test)]
pub(crate) fn run_in_each<K: Kernel>(kernel: impl Fn() -> K) -> Vec<K::Output> {
    let mut results = vec![kernel().run(Portable)];
    #[cfg(target_arch = "x86_64")]
    {
        results.extend(Avx2::detect().map(|lanes| lanes.run(kernel())));
        results.extend(Avx512::detect().map(|lanes| lanes.run(kernel())));
    }
    results
}

/// Plain loops.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

impl Lanes for Portable {
    type Floats = [f32; LANES];
    type Integers = [i32; LANES];

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }
    #[inline(always)]
    fn store(self, floats: [f32; LANES], values: &mut [f32; LANES]) {
        *values = floats;
    }
    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }
    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| match cfg!(target_arch = "aarch64") {
            true => a[i].mul_add(b[i], c[i]),
            false => a[i] * b[i] + c[i],
        })
    }
    #[inline(always)]
    fn sum(self, mut floats: [f32; LANES]) -> f32 {
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                floats[i] += floats[i + width];
            }
        }
        floats[0]
    }
    #[inline(always)]
    fn halves(self, bytes: &[u8; 2 * LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        f16::from_le_bytes(bytes).to_f32()
    }
    #[inline(always)]
    fn two_halves(self, [a, b, c, d]: [u8; 4]) -> [f32; 2] {
        [self.half([a, b]), self.half([c, d])]
    }
    #[inline(always)]
    fn unsigned_bytes(self, bytes: &[u8; LANES]) -> [i32; LANES] {
        bytes.map(i32::from)
    }
    #[inline(always)]
    fn signed_bytes(self, bytes: &[u8; LANES]) -> [i32; LANES] {
        bytes.map(|byte| i32::from(byte as i8))
    }
    #[inline(always)]
    fn unsigned_words(self, bytes: &[u8; 2 * LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| i32::from(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])))
    }
    #[inline(always)]
    fn spread_bits(self, bits: u16) -> [i32; LANES] {
        std::array::from_fn(|i| i32::from(bits >> i) & 1)
    }
    #[inline(always)]
    fn and(self, a: [i32; LANES], mask: i32) -> [i32; LANES] {
        a.map(|a| a & mask)
    }
    #[inline(always)]
    fn or(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shift_left<const N: u32>(self, a: [i32; LANES]) -> [i32; LANES] {
        a.map(|a| a << N)
    }
    #[inline(always)]
    fn shift_right<const N: u32>(self, a: [i32; LANES]) -> [i32; LANES] {
        a.map(|a| (a as u32 >> N) as i32)
    }
    #[inline(always)]
    fn to_floats(self, a: [i32; LANES]) -> [f32; LANES] {
        a.map(|a| a as f32)
    }
    #[inline(always)]
    fn as_floats(self, a: [i32; LANES]) -> [f32; LANES] {
        a.map(|a| f32::from_bits(a as u32))
    }
}
