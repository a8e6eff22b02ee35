//! A row is worked on in blocks of fixed size: they stay in the first-level cache, loops over them have constant bounds,
//! and sums have the same shape whatever the machine and the number of threads.

use model::ops::real::Real;

/// Columns of a block.
pub(super) const BLOCK: usize = 512;

/// Partial sums kept apart. Fixed, not the machine's vector width, so that results do not depend on the machine.
pub(super) const LANES: usize = 16;

/// Copies up to [`BLOCK`] logits. −∞ becomes the finite [`Real::MASKED`], and so do the columns that are not there: both
/// have a probability of exactly 0. NaN stays.
#[inline(always)]
pub(super) fn load<F: Real>(logits: &[F], block: &mut [F; BLOCK]) {
    for (to, &x) in block.iter_mut().zip(logits) {
        *to = if x < F::MASKED { F::MASKED } else { x };
    }
    block[logits.len()..].fill(F::MASKED);
}

/// A sum over a row: a block's columns are added in `F`, 32 to a lane, blocks in `f64`.
#[derive(Clone, Copy)]
pub(super) struct LaneSum([f64; LANES]);

impl Default for LaneSum {
    fn default() -> Self {
        Self([0.0; LANES])
    }
}

impl LaneSum {
    #[inline(always)]
    pub fn add<F: Real>(&mut self, block: &[F; BLOCK]) {
        let mut lanes = [F::ZERO; LANES];
        for chunk in block.chunks_exact(LANES) {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += x;
            }
        }
        for (total, lane) in self.0.iter_mut().zip(lanes) {
            *total += lane.to_f64();
        }
    }

    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_masks_what_is_missing() {
        let mut block = [7.0f32; BLOCK];
        load(&[1.0, f32::NEG_INFINITY, f32::MIN, f32::NAN], &mut block);
        assert_eq!(block[0], 1.0);
        assert_eq!(&block[1..3], &[f32::MASKED; 2]);
        assert!(block[3].is_nan());
        assert_eq!(block[4..], [f32::MASKED; BLOCK - 4]);
    }

    #[test]
    fn many_small_numbers_are_summed_closely() {
        let mut sum = LaneSum::default();
        for _ in 0..1000 {
            sum.add(&[0.1f32; BLOCK]);
        }
        let exact = f64::from(0.1f32) * 1000.0 * BLOCK as f64;
        assert!((sum.total() / exact - 1.0).abs() < 1e-6);
    }
}
