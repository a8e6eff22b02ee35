//! `exp` and `ln` for `f32` without branches, table look-ups or calls, so that LLVM turns loops over them into vector code.
//!
//! The polynomials are those of the Cephes library (`expf`, `logf`). No fused multiply-add is used: every instruction
//! set then gives the same bits.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2²³: adding it rounds to the nearest integer, which then sits in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// Where e^x leaves the normal numbers.
const EXP_LOWEST: f32 = -87.336_5;
const EXP_HIGHEST: f32 = 88.722_83;

/// e^x within 1 ulp. Results below the smallest normal number are 0; −∞ gives 0, +∞ gives +∞ and NaN gives NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let rounded = x * LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // Multiply by 2^n through the exponent field; in range the sum neither overflows nor reaches the subnormals.
    let y = f32::from_bits(y.to_bits().wrapping_add(rounded.to_bits() << 23));
    let y = if x < EXP_LOWEST { 0.0 } else { y };
    // The negated order of the comparison sends NaN the same way as +∞: both survive the addition.
    if x <= EXP_HIGHEST {
        y
    } else {
        x + f32::INFINITY
    }
}

const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
const SMALLEST_NORMAL: f32 = f32::MIN_POSITIVE;
const TWO_TO_23: f32 = 8_388_608.0;

/// ln x within 1 ulp, subnormal numbers included; 0 gives −∞, negative numbers and NaN give NaN, +∞ gives +∞.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let subnormal = x < SMALLEST_NORMAL;
    let scaled = if subnormal { x * TWO_TO_23 } else { x };
    let offset = if subnormal { 23.0 } else { 0.0 };
    // Split into 2^e · m with m in [√½, √2).
    let shifted = scaled.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let e = ((shifted as i32) >> 23) as f32 - offset;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS));
    let f = m - 1.0;
    let z = f * f;
    let mut p = 7.037_683_6e-2;
    p = p * f - 1.151_461e-1;
    p = p * f + 1.167_699_84e-1;
    p = p * f - 1.242_014_1e-1;
    p = p * f + 1.424_932_3e-1;
    p = p * f - 1.666_805_8e-1;
    p = p * f + 2.000_071_5e-1;
    p = p * f - 2.499_999_4e-1;
    p = p * f + 3.333_333e-1;
    let tail = p * f * z + e * LN2_LOW - 0.5 * z;
    let y = f + tail + e * LN2_HIGH;
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x >= 0.0 { y } else { f32::NAN };
    if x == f32::INFINITY { x } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units of the last place of the correctly rounded result.
    fn ulps(got: f32, exact: f64) -> f64 {
        let reference = exact as f32;
        let ulp =
            f64::from(f32::from_bits(reference.abs().to_bits() + 1)) - f64::from(reference.abs());
        (f64::from(got) - exact).abs() / ulp
    }

    /// Every 61st bit pattern between two positive numbers, and the last.
    fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (from.to_bits()..=to.to_bits())
            .step_by(61)
            .chain([to.to_bits()])
            .map(f32::from_bits)
    }

    #[test]
    fn exp_is_within_an_ulp_over_its_range() {
        let mut worst: f64 = 0.0;
        for x in sweep(1e-30, EXP_HIGHEST).chain(sweep(1e-30, -EXP_LOWEST).map(|x| -x)) {
            worst = worst.max(ulps(exp(x), f64::from(x).exp()));
        }
        assert!(worst <= 1.0, "{worst} ulp");
    }

    #[test]
    fn exp_at_its_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        for x in [f32::NEG_INFINITY, f32::MIN, -1e30, -1e4, -104.0, -87.34] {
            assert_eq!(exp(x).to_bits(), 0, "exp({x})");
        }
        for x in [88.73, 1e4, f32::MAX, f32::INFINITY] {
            assert_eq!(exp(x), f32::INFINITY, "exp({x})");
        }
        for payload in [0x7fc0_0000, 0x7fff_ffff, 0xffc0_0001] {
            assert!(exp(f32::from_bits(payload)).is_nan());
        }
    }

    #[test]
    fn ln_is_within_an_ulp_over_its_range() {
        let mut worst: f64 = 0.0;
        for x in sweep(f32::from_bits(1), f32::MAX) {
            if x != 1.0 {
                worst = worst.max(ulps(ln(x), f64::from(x).ln()));
            }
        }
        assert!(worst <= 1.0, "{worst} ulp");
    }

    #[test]
    fn ln_at_its_ends() {
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(-0.0), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        for x in [-1.0, f32::NEG_INFINITY, -1e-40, f32::NAN] {
            assert!(ln(x).is_nan(), "ln({x})");
        }
    }
}
