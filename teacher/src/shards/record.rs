//! A position as bytes, and back.
//!
//! Top-k: the range R of the logarithms and the tail as half floats; then for each token, by rising id, the distance from
//! the id before (exponential-Golomb) and a code c of `bits` bits, which stands for a weight of `exp(−R·(c/C)²)`, C the
//! largest code. Probabilities are weights divided by their sum, times what the tail leaves. So a probability is off by
//! a factor of `exp(R·x/C)` at most, x = c/C: least for the most probable tokens. R with a minus sign: the number of tokens
//! comes before them, because there are fewer than the encoding says; none and no tail: nothing is known of the position.
//!
//! Sampled: the number of different tokens; for each the distance of its id and how often it came, less one.

use half::f16;
use model::ops::real::Real;

use super::bits::{BitReader, BitWriter};
use super::encoding::{Encoding, Sampled, TopK};
use crate::sparse_targets::SparseTargets;

/// Probabilities below e^−40 of the largest are taken for that.
const WIDEST_RANGE: f32 = 40.0;
/// Orders of the codes of counts.
const DISTINCT_ORDER: u32 = 3;
const COUNT_ORDER: u32 = 0;
/// Of the length of a list that is shorter than others.
const LENGTH_ORDER: u32 = 3;

/// Appends a top-k list: rising ids, at most as many as the encoding lists of a vocabulary of this size, their natural
/// log-probabilities, and the probability of the rest. No ids and no rest stand for a position that nothing is known of.
pub fn write_top_k(
    top: &TopK,
    vocabulary: usize,
    ids: &[u32],
    log_probabilities: &[f32],
    tail: f64,
    out: &mut Vec<u8>,
) {
    let largest = log_probabilities
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let below = |log: f32| (largest - log).clamp(0.0, WIDEST_RANGE);
    let range = log_probabilities
        .iter()
        .map(|log| below(*log))
        .fold(0.0, f32::max);
    let range = half_above(range);
    let encoding = Encoding::TopK(*top);
    let is_short = ids.len() < encoding.listed(vocabulary);
    let marked = if is_short { -range } else { range };
    out.extend(marked.to_le_bytes());
    out.extend(f16::from_f64(tail).to_le_bytes());
    let range = range.to_f32();
    let most = largest_code(top.bits);
    let order = encoding.golomb_order(vocabulary);
    let mut writer = BitWriter::new(out);
    if is_short {
        writer.put_golomb(ids.len() as u32, LENGTH_ORDER);
    }
    let mut next = 0;
    for (&id, &log) in ids.iter().zip(log_probabilities) {
        writer.put_golomb(id - next, order);
        next = id + 1;
        let share = match range > 0.0 {
            true => (below(log) / range).sqrt(),
            false => 0.0,
        };
        writer.put((share * most).round() as u32, top.bits);
    }
    writer.finish();
}

/// Appends draws: rising ids and how often each came, at least once.
pub fn write_sampled(order: u32, ids: &[u32], counts: &[u32], out: &mut Vec<u8>) {
    let mut writer = BitWriter::new(out);
    writer.put_golomb(ids.len() as u32, DISTINCT_ORDER);
    let mut next = 0;
    for (&id, &count) in ids.iter().zip(counts) {
        writer.put_golomb(id - next, order);
        next = id + 1;
        writer.put_golomb(count - 1, COUNT_ORDER);
    }
    writer.finish();
}

/// Reads positions of one encoding.
#[derive(Debug, Clone, Copy)]
pub struct RecordReader {
    encoding: Encoding,
    vocabulary: usize,
    order: u32,
    listed: usize,
}

impl RecordReader {
    pub fn new(encoding: Encoding, vocabulary: usize) -> Self {
        Self {
            encoding,
            vocabulary,
            order: encoding.golomb_order(vocabulary),
            listed: encoding.listed(vocabulary),
        }
    }

    /// Adds the position at the start of `bytes` to `targets` and returns how many bytes it took; `entropy` is that of
    /// the teacher's whole distribution.
    ///
    /// `None` for bytes that no position is written as; `targets` is of no use then.
    pub fn read(&self, bytes: &[u8], entropy: f64, targets: &mut SparseTargets) -> Option<usize> {
        match self.encoding {
            Encoding::TopK(top) => self.read_top_k(&top, bytes, targets),
            Encoding::Sampled(sampled) => self.read_sampled(&sampled, bytes, entropy, targets),
        }
    }

    fn read_top_k(&self, top: &TopK, bytes: &[u8], targets: &mut SparseTargets) -> Option<usize> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let half = |at: usize| f16::from_le_bytes([head[at], head[at + 1]]).to_f32();
        let (range, tail) = (half(0).abs(), half(2));
        if !(0.0..=2.0 * WIDEST_RANGE).contains(&range) || !(0.0..=1.0).contains(&tail) {
            return None;
        }
        let start = targets.ids.len();
        let mut reader = BitReader::new(rest);
        let listed = match half(0).is_sign_negative() {
            true => reader.take_golomb(LENGTH_ORDER)? as usize,
            false => self.listed,
        };
        if listed > self.listed {
            return None;
        }
        let mut next = 0_u32;
        let scale = 1.0 / largest_code(top.bits);
        let mut sum = 0.0;
        for _ in 0..listed {
            let id = self.id(&mut next, &mut reader)?;
            let share = reader.take(top.bits)? as f32 * scale;
            let weight = Real::exp(-range * share * share);
            sum += weight;
            targets.ids.push(id);
            targets.probabilities.push(weight);
        }
        let factor = (1.0 - tail) / sum;
        for weight in &mut targets.probabilities[start..] {
            *weight *= factor;
        }
        let entropy = targets.bucketed_entropy(start, tail);
        targets.close(tail, entropy);
        Some(4 + reader.bytes_read())
    }

    fn read_sampled(
        &self,
        sampled: &Sampled,
        bytes: &[u8],
        entropy: f64,
        targets: &mut SparseTargets,
    ) -> Option<usize> {
        let mut reader = BitReader::new(bytes);
        let distinct = reader.take_golomb(DISTINCT_ORDER)?;
        let mut next = 0_u32;
        let mut left = sampled.samples;
        let one = 1.0 / sampled.samples as f32;
        for _ in 0..distinct {
            let id = self.id(&mut next, &mut reader)?;
            let count = reader.take_golomb(COUNT_ORDER)?.checked_add(1)?;
            left = left.checked_sub(count)?;
            targets.ids.push(id);
            targets.probabilities.push(count as f32 * one);
        }
        targets.close(0.0, entropy);
        (left == 0).then(|| reader.bytes_read())
    }

    #[inline]
    fn id(&self, next: &mut u32, reader: &mut BitReader) -> Option<u32> {
        let id = next.checked_add(reader.take_golomb(self.order)?)?;
        *next = id + 1;
        ((id as usize) < self.vocabulary).then_some(id)
    }
}

fn largest_code(bits: u32) -> f32 {
    ((1_u32 << bits) - 1) as f32
}

/// The smallest half float that is not below `value`, which is not negative.
fn half_above(value: f32) -> f16 {
    let near = f16::from_f32(value);
    match near.to_f32() < value {
        true => f16::from_bits(near.to_bits() + 1),
        false => near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_within_its_bound() {
        let logits: Vec<f32> = (0..200)
            .map(|i| ((i * 37 % 101) as f32 * 0.73).sin() * 6.0)
            .collect();
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        for bits in [8, 12, 16] {
            let top = TopK { k: 40, bits };
            let encoding = Encoding::TopK(top);
            let ids: Vec<u32> = (0..40).map(|i| i * 5).collect();
            let exact: Vec<f64> = (ids.iter())
                .map(|id| f64::from(logits[*id as usize]).exp() / sum)
                .collect();
            let logs: Vec<f32> = exact.iter().map(|p| p.ln() as f32).collect();
            let tail = 1.0 - exact.iter().sum::<f64>();
            let mut bytes = vec![];
            write_top_k(&top, 200, &ids, &logs, tail, &mut bytes);
            let length = bytes.len();
            bytes.extend([0xff; 9]);
            let mut targets = SparseTargets::new(200);
            let reader = RecordReader::new(encoding, 200);
            assert_eq!(reader.read(&bytes, 0.0, &mut targets), Some(length));
            assert_eq!(targets.entries(0).0, ids);
            // R·x/C for the whole range, and the tail's half float, which the sum hands on.
            let bound = 12.0 / f64::from(largest_code(bits)) + 1e-3;
            for (found, exact) in targets.entries(0).1.iter().zip(&exact) {
                assert!((f64::from(*found) / exact - 1.0).abs() < bound, "{bits}");
            }
            let whole: f32 = targets.probabilities.iter().sum::<f32>() + targets.tails[0];
            assert!((whole - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn short_lists_and_positions_without_any_come_back() {
        let top = TopK { k: 40, bits: 16 };
        let mut bytes = vec![];
        let lists: [(&[u32], &[f32], f64); 3] = [
            (&[3, 199], &[-0.5, -3.0], 0.343_682_25),
            (&[], &[], 0.0),
            (&[7], &[-0.25], 1.0 - (-0.25_f64).exp()),
        ];
        for (ids, logs, tail) in lists {
            write_top_k(&top, 200, ids, logs, tail, &mut bytes);
        }
        let mut targets = SparseTargets::new(200);
        let reader = RecordReader::new(Encoding::TopK(top), 200);
        let mut rest = bytes.as_slice();
        for _ in lists {
            let read = reader.read(rest, 0.0, &mut targets).unwrap();
            rest = &rest[read..];
        }
        assert!(rest.is_empty());
        for (position, (ids, logs, tail)) in lists.iter().enumerate() {
            let (found, probabilities) = targets.entries(position);
            assert_eq!(found, *ids);
            for (p, log) in probabilities.iter().zip(*logs) {
                assert!((p - log.exp()).abs() < 3e-4, "{p} {log}");
            }
            assert!((f64::from(targets.tails[position]) - tail).abs() < 3e-4);
            assert_eq!(targets.is_known(position), position != 1);
        }
    }

    #[test]
    fn draws_come_back_and_false_sums_do_not() {
        let reader = RecordReader::new(Encoding::Sampled(Sampled { samples: 10 }), 5000);
        let order = Encoding::Sampled(Sampled { samples: 10 }).golomb_order(5000);
        let mut bytes = vec![];
        write_sampled(order, &[0, 17, 4999], &[1, 8, 1], &mut bytes);
        let mut targets = SparseTargets::new(5000);
        assert_eq!(reader.read(&bytes, 1.5, &mut targets), Some(bytes.len()));
        assert_eq!(
            targets.entries(0),
            (&[0, 17, 4999][..], &[0.1, 0.8, 0.1][..])
        );
        assert_eq!(targets.entropies, [1.5]);
        let mut bytes = vec![];
        write_sampled(order, &[0, 17], &[1, 8], &mut bytes);
        assert_eq!(reader.read(&bytes, 1.5, &mut targets), None);
        let mut bytes = vec![];
        write_sampled(order, &[5000], &[10], &mut bytes);
        assert_eq!(reader.read(&bytes, 1.5, &mut targets), None);
    }
}
