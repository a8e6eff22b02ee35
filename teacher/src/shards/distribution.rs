//! A row of logits as a distribution: its entropy, its most probable tokens, draws from it. Everything is linear in the
//! vocabulary, and only the first two loops see all of it.

use datasets::random::Random;
use model::ops::real::Real;
use model::ops::simd::widest;

/// Columns whose largest logit and sum are kept. About as many blocks as columns in a block keep both searches short.
const BLOCK: usize = 64;
const LANES: usize = 16;

/// The softmax of a row at a temperature.
pub struct Distribution<'a> {
    logits: &'a [f32],
    inverse_temperature: f32,
    largest: f32,
    /// `Σ exp((x − largest)/T)`
    sum: f64,
    /// Nats.
    pub entropy: f64,
    block_largest: Vec<f32>,
    block_sums: Vec<f64>,
}

impl<'a> Distribution<'a> {
    /// `None` for logits that have no distribution: NaN, +∞, or none that is finite.
    pub fn new(logits: &'a [f32], temperature: f64) -> Option<Self> {
        let inverse = 1.0 / temperature;
        let inverse_temperature = inverse as f32;
        let blocks = logits.len().div_ceil(BLOCK);
        let (mut block_largest, mut block_sums) = (vec![f32::MASKED; blocks], vec![0.0; blocks]);
        // Loops, not iterators with closures: those would not be compiled for the wide instructions.
        let (largest, moment) = widest(
            #[inline(always)]
            || {
                for (largest, block) in block_largest.iter_mut().zip(logits.chunks(BLOCK)) {
                    *largest = largest_of(block);
                }
                let largest = largest_of(&block_largest);
                let mut moment = 0.0;
                for (total, block) in block_sums.iter_mut().zip(logits.chunks(BLOCK)) {
                    let (sum, first) = sums_of(block, largest, inverse_temperature);
                    *total = f64::from(sum);
                    moment += f64::from(first);
                }
                (largest, moment)
            },
        );
        let sum: f64 = block_sums.iter().sum();
        let entropy = sum.ln() - moment / sum;
        let is_distribution = largest > f32::MASKED && sum.is_finite() && entropy.is_finite();
        is_distribution.then_some(Self {
            logits,
            inverse_temperature,
            largest,
            sum,
            // Rounding may take it below.
            entropy: entropy.max(0.0),
            block_largest,
            block_sums,
        })
    }

    fn log_probability(&self, id: u32) -> f64 {
        let above = (self.logits[id as usize].max(f32::MASKED) - self.largest).to_f64();
        above * self.inverse_temperature.to_f64() - self.sum.ln()
    }

    /// The `k` most probable tokens by rising id, of equals those with lower ids, with their natural log-probabilities;
    /// and the probability of the others.
    pub fn top_k(&self, k: usize) -> (Vec<u32>, Vec<f32>, f64) {
        let count = self.logits.len();
        // At least k logits reach the k-th largest of the blocks' largest.
        let threshold = match k <= self.block_largest.len() && k > 0 {
            true => {
                let mut largest = self.block_largest.clone();
                let (_, kth, _) = largest.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
                *kth
            }
            false => f32::NEG_INFINITY,
        };
        let mut ids = Vec::new();
        for (block, _) in
            (self.block_largest.iter().enumerate()).filter(|(_, largest)| **largest >= threshold)
        {
            let columns = block * BLOCK..count.min((block + 1) * BLOCK);
            ids.extend(
                columns
                    .filter(|id| self.logits[*id] >= threshold)
                    .map(|id| id as u32),
            );
        }
        if ids.len() > k {
            let logit = |id: u32| self.logits[id as usize];
            ids.select_nth_unstable_by(k, |&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
            ids.truncate(k);
        }
        ids.sort_unstable();
        let logs: Vec<f32> = (ids.iter())
            .map(|id| self.log_probability(*id) as f32)
            .collect();
        let tail = match ids.len() < count {
            true => {
                1.0 - ids
                    .iter()
                    .map(|id| self.log_probability(*id).exp())
                    .sum::<f64>()
            }
            false => 0.0,
        };
        (ids, logs, tail.max(0.0))
    }

    /// Independent draws: the tokens by rising id, and how often each came.
    pub fn draw(&self, samples: usize, random: &mut Random) -> (Vec<u32>, Vec<u32>) {
        let mut places: Vec<f64> = (0..samples).map(|_| random.f64() * self.sum).collect();
        places.sort_unstable_by(f64::total_cmp);
        let (mut ids, mut counts) = (Vec::new(), Vec::new());
        let (mut block, mut before) = (0, 0.0);
        let mut opened: Option<(usize, [f64; BLOCK])> = None;
        for place in places {
            while place >= before + self.block_sums[block] && block + 1 < self.block_sums.len() {
                before += self.block_sums[block];
                block += 1;
            }
            let ends = match &opened {
                Some((open, ends)) if *open == block => ends,
                _ => &opened.insert((block, self.ends(block))).1,
            };
            // The block's sum was added in another order; a place at its very end may lie beyond the last column.
            let column = ends.partition_point(|end| before + end <= place);
            let last = ends.partition_point(|end| *end < ends[BLOCK - 1]);
            let id = (block * BLOCK + column.min(last)) as u32;
            match ids.last() == Some(&id) {
                true => *counts.last_mut().unwrap_or(&mut 0) += 1,
                false => {
                    ids.push(id);
                    counts.push(1);
                }
            }
        }
        (ids, counts)
    }

    /// Sums of a block up to and with each column; those beyond the vocabulary add nothing.
    fn ends(&self, block: usize) -> [f64; BLOCK] {
        let start = block * BLOCK;
        let columns = &self.logits[start..self.logits.len().min(start + BLOCK)];
        let mut ends = [0.0; BLOCK];
        let mut sum = 0.0;
        for (i, end) in ends.iter_mut().enumerate() {
            if let Some(x) = columns.get(i) {
                let above = x.max(f32::MASKED) - self.largest;
                sum += Real::exp(above * self.inverse_temperature).to_f64();
            }
            *end = sum;
        }
        ends
    }
}

#[inline(always)]
fn largest_of(logits: &[f32]) -> f32 {
    let mut lanes = [f32::MASKED; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = Real::maximum(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = Real::maximum(*lane, *x);
    }
    let mut largest = f32::MASKED;
    for lane in lanes {
        largest = Real::maximum(largest, lane);
    }
    largest
}

/// `Σ e` and `Σ e·y` with `y = (x − largest)/T`, `e = exp y`.
#[inline(always)]
fn sums_of(block: &[f32], largest: f32, inverse_temperature: f32) -> (f32, f32) {
    let (mut sums, mut firsts) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            add(
                chunk[i],
                largest,
                inverse_temperature,
                &mut sums[i],
                &mut firsts[i],
            );
        }
    }
    for (i, x) in rest.iter().enumerate() {
        add(
            *x,
            largest,
            inverse_temperature,
            &mut sums[i],
            &mut firsts[i],
        );
    }
    let (mut sum, mut first) = (0.0, 0.0);
    for i in 0..LANES {
        sum += sums[i];
        first += firsts[i];
    }
    (sum, first)
}

#[inline(always)]
fn add(x: f32, largest: f32, inverse_temperature: f32, sum: &mut f32, first: &mut f32) {
    let x = if x < f32::MASKED { f32::MASKED } else { x };
    let y = (x - largest) * inverse_temperature;
    let e = Real::exp(y);
    *sum += e;
    *first += e * y;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, "test", 0, "logits");
        (0..count).map(|_| (random.f64() * 12.0) as f32).collect()
    }

    /// By definition, in f64.
    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let e: Vec<f64> = (logits.iter())
            .map(|x| (f64::from(*x) / temperature).exp())
            .collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(|e| e / sum).collect()
    }

    #[test]
    fn the_top_and_the_entropy_are_those_of_a_full_sort() {
        for (count, k) in [
            (1, 1),
            (50, 7),
            (63, 63),
            (1000, 5),
            (5000, 64),
            (4096, 100),
        ] {
            for temperature in [0.5, 1.0, 2.0] {
                let mut row = logits(count, k as u64);
                if count > 100 {
                    row[17] = f32::NEG_INFINITY;
                    // Ties.
                    row[99] = row[3];
                    row[4] = row[3];
                }
                let p = softmax(&row, temperature);
                let mut order: Vec<u32> = (0..count as u32).collect();
                order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
                let mut expected = order[..k].to_vec();
                expected.sort_unstable();
                let distribution = Distribution::new(&row, temperature).unwrap();
                let (ids, logs, tail) = distribution.top_k(k);
                assert_eq!(ids, expected);
                for (id, log) in ids.iter().zip(logs) {
                    let exact = p[*id as usize].ln();
                    assert!((f64::from(log) - exact).abs() < 3e-6, "{log} {exact}");
                }
                let rest: f64 = order[k..].iter().map(|id| p[*id as usize]).sum();
                assert!((tail - rest).abs() < 1e-6, "{tail} {rest}");
                let entropy: f64 = (p.iter().filter(|p| **p > 0.0)).map(|p| -p * p.ln()).sum();
                assert!((distribution.entropy - entropy).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let row = logits(700, 3);
        let p = softmax(&row, 2.0);
        let distribution = Distribution::new(&row, 2.0).unwrap();
        let mut found = vec![0_u32; row.len()];
        let (rows, samples) = (4000, 50);
        for i in 0..rows {
            let mut random = Random::new(1, "test", i, "draw");
            let (ids, counts) = distribution.draw(samples, &mut random);
            assert!(ids.is_sorted_by(|a, b| a < b));
            assert_eq!(counts.iter().sum::<u32>(), samples as u32);
            ids.iter()
                .zip(counts)
                .for_each(|(id, n)| found[*id as usize] += n);
        }
        let n = (rows * samples as u64) as f64;
        let chi_square: f64 = (found.iter().zip(&p))
            .map(|(found, p)| (f64::from(*found) - n * p).powi(2) / (n * p))
            .sum();
        // 699 degrees of freedom: mean 699, standard deviation 37.
        println!("chi-square {chi_square:.1} of 699 degrees of freedom");
        assert!((chi_square - 699.0).abs() < 4.0 * 37.4, "{chi_square}");
    }

    #[test]
    fn what_is_no_distribution_is_none() {
        for row in [
            vec![f32::NEG_INFINITY; 70],
            vec![0.0, f32::NAN],
            vec![f32::INFINITY, 1.0],
        ] {
            assert!(Distribution::new(&row, 1.0).is_none(), "{row:?}");
        }
    }
}
