//! Counter-based random numbers: a function of (seed, name, counter), so that nothing has to be replayed.

/// A stream of numbers under a name.
#[derive(Debug, Clone, Copy)]
pub struct Stream(u64);

impl Stream {
    pub fn new(seed: u64, name: &str) -> Self {
        Self(
            name.bytes()
                .fold(mix(seed ^ 0x5851_F42D_4C95_7F2D), |key, byte| {
                    mix(key ^ u64::from(byte))
                }),
        )
    }

    /// A stream of this one's for each `number`.
    pub fn nth(self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(!number)))
    }

    /// 64 uniform bits.
    #[inline(always)]
    pub fn bits(self, counter: u64) -> u64 {
        mix(self.0 ^ mix(counter))
    }

    /// Uniform in [0, 1) with 53 random bits.
    pub fn uniform(self, counter: u64) -> f64 {
        (self.bits(counter) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The finaliser of SplitMix64.
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// `count` values uniform in ±`bound`.
pub fn uniform_values(count: usize, seed: u64, name: &str, bound: f64) -> Vec<f32> {
    let stream = Stream::new(seed, name);
    (0..count as u64)
        .map(|counter| ((2.0 * stream.uniform(counter) - 1.0) * bound) as f32)
        .collect()
}

/// `count` normal values of this standard deviation, two of each pair of counters (Box and Muller).
pub fn normal_values(count: usize, seed: u64, name: &str, deviation: f64) -> Vec<f32> {
    let stream = Stream::new(seed, name);
    let mut values = Vec::with_capacity(count + 1);
    for pair in 0..count.div_ceil(2) as u64 {
        let radius = (-2.0 * (1.0 - stream.uniform(2 * pair)).ln()).sqrt() * deviation;
        let angle = 2.0 * std::f64::consts::PI * stream.uniform(2 * pair + 1);
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}
