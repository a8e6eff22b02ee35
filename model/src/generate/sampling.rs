//! From logits to the next token: the transforms in the order in which transformers applies them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::score::log_sum_exp;

/// How the next token is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// 0 takes the most probable token.
    pub temperature: f32,
    /// Only the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// The smallest set of most probable tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Tokens of at least this share of the most probable token's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides (or multiplies, when negative) the logits of tokens already seen; 1 leaves them.
    pub repetition_penalty: f32,
}

/// Below this the quotient of a logit would leave `f32`; the most probable token is then all but certain.
const SMALLEST_TEMPERATURE: f32 = 1e-6;

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

impl SamplingConfig {
    /// # Errors
    /// The name of the setting that is out of its range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        let range = |name: &str, value: f32, ok: bool, range: &str| match ok {
            true => Ok(()),
            false => Err(format!("{name} is {value}; it must be {range}")),
        };
        let t = self.temperature;
        range(
            "temperature",
            t,
            t >= 0.0 && t.is_finite(),
            "0 (greedy) or more",
        )?;
        let p = self.top_p;
        range("top_p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        let p = self.min_p;
        range("min_p", p, (0.0..=1.0).contains(&p), "between 0 and 1")?;
        let r = self.repetition_penalty;
        range("repetition_penalty", r, r > 0.0 && r.is_finite(), "above 0")
    }
}

/// Log-probabilities after all transforms; removed tokens are −∞. `seen` are prompt and output so far.
pub fn filtered_log_probs(config: &SamplingConfig, logits: &[f32], seen: &[u32]) -> Vec<f32> {
    let mut logits = penalised(logits, seen, config.repetition_penalty).into_owned();
    if config.temperature > 0.0 {
        logits.iter_mut().for_each(|x| *x /= config.temperature);
    }
    keep_top_k(&mut logits, config.top_k);
    keep_top_p(&mut logits, config.top_p);
    keep_min_p(&mut logits, config.min_p);
    log_softmax(&logits)
}

/// The next token; `uniform` in [0, 1) decides among the kept ones.
pub fn next_token(config: &SamplingConfig, logits: &[f32], seen: &[u32], uniform: f64) -> u32 {
    if config.temperature < SMALLEST_TEMPERATURE {
        return argmax(&penalised(logits, seen, config.repetition_penalty));
    }
    let log_probs = filtered_log_probs(config, logits, seen);
    pick(log_probs.iter().map(|x| f64::from(*x).exp()), uniform)
}

/// Log-probabilities of what [`next_token`] draws: all on one token at temperature 0.
pub fn next_log_probs(config: &SamplingConfig, logits: &[f32], seen: &[u32]) -> Vec<f32> {
    if config.temperature < SMALLEST_TEMPERATURE {
        let mut log_probs = vec![f32::NEG_INFINITY; logits.len()];
        log_probs[next_token(config, logits, seen, 0.0) as usize] = 0.0;
        return log_probs;
    }
    filtered_log_probs(config, logits, seen)
}

/// The index at which the sum of `weights` exceeds `point`; the last with a weight when none does.
pub fn pick(weights: impl Iterator<Item = f64>, point: f64) -> u32 {
    let (mut left, mut last) = (point, 0);
    for (id, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = id as u32;
            if left < weight {
                break;
            }
            left -= weight;
        }
    }
    last
}

/// Index of the largest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Natural log-probabilities.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let log_sum = log_sum_exp(logits);
    let log_probs = logits.iter().map(|&x| (f64::from(x) - log_sum) as f32);
    log_probs.collect()
}

fn penalised<'a>(logits: &'a [f32], seen: &[u32], penalty: f32) -> Cow<'a, [f32]> {
    if penalty == 1.0 {
        return Cow::Borrowed(logits);
    }
    let mut out = logits.to_vec();
    for &id in seen {
        if let (Some(slot), Some(&logit)) = (out.get_mut(id as usize), logits.get(id as usize)) {
            *slot = if logit < 0.0 {
                logit * penalty
            } else {
                logit / penalty
            };
        }
    }
    Cow::Owned(out)
}

fn keep_top_k(logits: &mut [f32], k: usize) {
    if k == 0 || k >= logits.len() {
        return;
    }
    let mut sorted = logits.to_vec();
    let (_, threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    remove(logits, |x| x < threshold);
}

fn keep_top_p(logits: &mut [f32], top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let log_probs = log_softmax(logits);
    let likelier = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // The likeliest are sorted in growing parts: rarely are many needed.
    let (mut sorted, mut kept, mut before) = (0, 0, 0.0_f64);
    while kept < order.len() && before < f64::from(top_p) {
        if kept == sorted {
            let part = (3 * sorted).max(256).min(order.len() - sorted);
            if sorted + part < order.len() {
                order[sorted..].select_nth_unstable_by(part, likelier);
            }
            order[sorted..sorted + part].sort_unstable_by(likelier);
            sorted += part;
        }
        before += f64::from(log_probs[order[kept]]).exp();
        kept += 1;
    }
    for &id in &order[kept..] {
        logits[id] = f32::NEG_INFINITY;
    }
}

fn keep_min_p(logits: &mut [f32], min_p: f32) {
    if min_p <= 0.0 {
        return;
    }
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let threshold = largest + min_p.ln();
    remove(logits, |x| x < threshold);
}

fn remove(logits: &mut [f32], condition: impl Fn(f32) -> bool) {
    for logit in logits.iter_mut().filter(|logit| condition(**logit)) {
        *logit = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_set_that_reaches_the_share_is_kept_however_large() {
        let logits: Vec<f32> = (0..5000)
            .map(|i| ((i * 7919) % 5000) as f32 / 2500.0)
            .collect();
        let probabilities: Vec<f64> = log_softmax(&logits)
            .iter()
            .map(|x| f64::from(*x).exp())
            .collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        for top_p in [0.001, 0.3, 0.9] {
            let mut before = 0.0;
            let count = order.iter().take_while(|&&id| {
                let needed = before < f64::from(top_p);
                before += probabilities[id];
                needed
            });
            let mut expected = vec![f32::NEG_INFINITY; logits.len()];
            count.for_each(|&id| expected[id] = logits[id]);
            let mut kept = logits.clone();
            keep_top_p(&mut kept, top_p);
            assert_eq!(kept, expected, "{top_p}");
        }
    }
}
