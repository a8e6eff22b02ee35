//! What a block format is to the loops that read it: bytes of a block, values of a block, and how the first become the
//! second, sixteen at a time.

use bytemuck::Pod;

use crate::ops::lanes::{LANES, Lanes};

/// A block format. Decoding gives the same bits in every instruction set.
pub(crate) trait Format {
    /// The bytes of a block.
    type Block: Pod;
    /// Values in a block, a multiple of [`LANES`].
    const VALUES: usize;

    /// Calls `each` with the place in the block and the sixteen values that start there, in order.
    ///
    /// Marked `#[inline(always)]`, so that it is compiled for the instructions of its caller.
    fn decode<L: Lanes>(lanes: L, block: &Self::Block, each: impl FnMut(usize, L::Floats));
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct Bf16;

impl Format for F32 {
    type Block = [u8; 4 * LANES];
    const VALUES: usize = LANES;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 4 * LANES], mut each: impl FnMut(usize, L::Floats)) {
        each(0, lanes.load(&bytemuck::pod_read_unaligned(block)));
    }
}

impl Format for F16 {
    type Block = [u8; 2 * LANES];
    const VALUES: usize = LANES;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 2 * LANES], mut each: impl FnMut(usize, L::Floats)) {
        each(0, lanes.halves(block));
    }
}

impl Format for Bf16 {
    type Block = [u8; 2 * LANES];
    const VALUES: usize = LANES;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 2 * LANES], mut each: impl FnMut(usize, L::Floats)) {
        let high = lanes.shift_left::<16>(lanes.unsigned_words(block));
        each(0, lanes.as_floats(high));
    }
}

/// Runs a block of code with a type's name bound to the format of a `GgmlType`.
macro_rules! for_format {
    ($kind:expr, $format:ident, $body:block) => {{
        use $crate::quant::block_type::GgmlType;
        use $crate::quant::{format, k_quants, legacy_quants};
        macro_rules! with {
            ($found:ty) => {{
                type $format = $found;
                $body
            }};
        }
        match $kind {
            GgmlType::F32 => with!(format::F32),
            GgmlType::F16 => with!(format::F16),
            GgmlType::Bf16 => with!(format::Bf16),
            GgmlType::Q4_0 => with!(legacy_quants::Q4_0),
            GgmlType::Q4_1 => with!(legacy_quants::Q4_1),
            GgmlType::Q5_0 => with!(legacy_quants::Q5_0),
            GgmlType::Q5_1 => with!(legacy_quants::Q5_1),
            GgmlType::Q8_0 => with!(legacy_quants::Q8_0),
            GgmlType::Q4K => with!(k_quants::Q4K),
            GgmlType::Q5K => with!(k_quants::Q5K),
            GgmlType::Q6K => with!(k_quants::Q6K),
        }
    }};
}
pub(crate) use for_format;
