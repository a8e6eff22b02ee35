//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").
//!
//! A number is a pure function of (seed, stage, purpose, step, index), so nothing has to be replayed
//! after a resume and the same recipe draws the same numbers on every machine.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// A stream of random numbers for one purpose at one step of one stage.
#[derive(Debug, Clone)]
pub struct Random {
    key: [u32; 2],
    step: u64,
    /// Index of the next block of 128 bits.
    block: u64,
    /// The second half of the last block, when it has not been used yet.
    spare: Option<u64>,
}

impl Random {
    /// `stage` and `purpose` are free names (`"sft"`, `"shuffle"`); streams with different names,
    /// seeds or steps are independent.
    pub fn new(seed: u64, stage: &str, step: u64, purpose: &str) -> Self {
        let mut key = mix(seed ^ 0x6469_7374_696C_6C00);
        for name in [stage, purpose] {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            key = mix(key ^ name.len() as u64);
            for byte in name.bytes() {
                key = mix(key ^ u64::from(byte));
            }
        }
        Self {
            key: [key as u32, (key >> 32) as u32],
            step,
            block: 0,
            spare: None,
        }
    }

    /// A uniform 64-bit number.
    pub fn u64(&mut self) -> u64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let counter = [
            self.block as u32,
            (self.block >> 32) as u32,
            self.step as u32,
            (self.step >> 32) as u32,
        ];
        self.block = self.block.wrapping_add(1);
        let out = philox(counter, self.key);
        self.spare = Some(u64::from(out[2]) | u64::from(out[3]) << 32);
        u64::from(out[0]) | u64::from(out[1]) << 32
    }

    /// A uniform number in [0, 1) with 53 random bits.
    pub fn f64(&mut self) -> f64 {
        (self.u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform whole number in 0..n, without modulo bias (Lemire); 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        let rejected_below = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.u64()) * u128::from(n);
            if product as u64 >= rejected_below {
                return (product >> 64) as u64;
            }
        }
    }

    /// Fisher–Yates shuffle in place.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            values.swap(i, j);
        }
    }

    /// A random order of 0..n.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        self.shuffle(&mut order);
        order
    }
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_test_vectors() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_differ_by_each_part_of_their_name_and_repeat() {
        let first = |seed, stage, step, purpose| Random::new(seed, stage, step, purpose).u64();
        let base = first(1, "ab", 0, "c");
        assert_eq!(base, first(1, "ab", 0, "c"));
        for other in [
            first(2, "ab", 0, "c"),
            first(1, "a", 0, "bc"),
            first(1, "ab", 1, "c"),
            first(1, "ab", 0, "d"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn values_are_uniform_and_bounded() {
        let mut random = Random::new(3, "test", 0, "uniform");
        let n = 60_000;
        let mean = (0..n).map(|_| random.f64()).sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let mut counts = [0u32; 6];
        for _ in 0..n {
            counts[random.below(6) as usize] += 1;
        }
        assert!(
            counts.iter().all(|c| (9_500..10_500).contains(c)),
            "{counts:?}"
        );
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Random::new(5, "test", 2, "order").permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, v)| i as u32 == *v));
    }
}
