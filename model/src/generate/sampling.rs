//! From logits to the next token: the transforms in the order in which transformers applies them.

use serde::{Deserialize, Serialize};

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
    let mut logits = penalised(logits, seen, config.repetition_penalty);
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
    let mut left = uniform;
    let mut last = argmax(&log_probs);
    for (id, log_prob) in log_probs.iter().enumerate() {
        let probability = f64::from(*log_prob).exp();
        if probability > 0.0 {
            last = id as u32;
            if left < probability {
                break;
            }
            left -= probability;
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
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    let log_sum = sum.ln() as f32;
    logits.iter().map(|&x| x - largest - log_sum).collect()
}

fn penalised(logits: &[f32], seen: &[u32], penalty: f32) -> Vec<f32> {
    let mut out = logits.to_vec();
    if penalty != 1.0 {
        for &id in seen {
            if let (Some(slot), Some(&logit)) = (out.get_mut(id as usize), logits.get(id as usize))
            {
                *slot = if logit < 0.0 {
                    logit * penalty
                } else {
                    logit / penalty
                };
            }
        }
    }
    out
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
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let mut before = 0.0_f64;
    for id in order {
        if before >= f64::from(top_p) {
            logits[id] = f32::NEG_INFINITY;
        }
        before += f64::from(log_probs[id]).exp();
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
