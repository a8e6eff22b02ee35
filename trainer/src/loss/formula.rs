//! The losses as plain tensor formulas under Burn's autodiff: what types without a fused kernel run,
//! and what the fused kernels are compared with.

use burn::tensor::{DType, Int, Tensor, TensorData, activation};

use super::config::LossConfig;
use super::rows::check_labels;
use super::{Labels, LossEntries, LossRowsError, Vocabulary};

/// As `linear_loss::chunk_loss`, on any device; every position counts.
pub fn chunk_loss(
    entries: &LossEntries,
    vocabulary: Vocabulary,
    logits: Tensor<2>,
    teacher: Option<Tensor<2>>,
    labels: Labels,
    scale: f64,
    values: &mut [f64],
) -> Result<Tensor<2>, LossRowsError> {
    let dtype = logits.dtype();
    let valid = vocabulary.valid;
    check_labels(entries, valid, labels)?;
    let student = widen(logits).autodiff().require_grad();
    let known = student.clone().narrow(1, 0, valid);
    let teacher = teacher.map(|t| widen(t).narrow(1, 0, valid).autodiff());
    let mut total: Option<Tensor<1>> = None;
    for (entry, value) in entries.configs().iter().zip(values) {
        let Some(temperature) = entry.temperature() else {
            continue;
        };
        let q = log_softmax_at(&known, temperature);
        let loss = match (entry, &teacher) {
            (LossConfig::CrossEntropy(_), _) => cross_entropy(q, labels.targets),
            (_, Some(teacher)) => divergence(entry, log_softmax_at(teacher, temperature), q),
            (_, None) => return Err(LossRowsError::NoTeacher),
        };
        let factor = match entry {
            LossConfig::Tvd(_) | LossConfig::CrossEntropy(_) => 1.0,
            _ => temperature * temperature,
        };
        let loss = loss.mul_scalar(factor);
        *value += f64::from(loss.clone().inner().cast(DType::F32).into_scalar::<f32>());
        let weighted = loss.mul_scalar(entry.weight() * scale);
        total = Some(match total {
            Some(sum) => sum + weighted,
            None => weighted,
        });
    }
    let Some(total) = total else {
        return Ok(student.inner().zeros_like().cast(dtype));
    };
    let mut gradients = total.backward();
    let gradient = student.grad_remove(&mut gradients);
    Ok(gradient
        .unwrap_or_else(|| student.inner().zeros_like())
        .cast(dtype))
}

/// A finite stand-in for −∞: 0 · log 0 is then 0, not NaN.
const MASKED: f64 = -1e30;

fn widen(x: Tensor<2>) -> Tensor<2> {
    match x.dtype() {
        DType::F64 => x,
        _ => x.cast(DType::F32),
    }
    .clamp_min(MASKED)
}

fn log_softmax_at(logits: &Tensor<2>, temperature: f64) -> Tensor<2> {
    activation::log_softmax(logits.clone().div_scalar(temperature), 1)
}

fn cross_entropy(q: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
    let data = TensorData::new(ids, [targets.len(), 1]);
    let index = Tensor::<2, Int>::from_data(data, (&q.device(), DType::I32));
    q.gather(1, index).sum().neg()
}

/// Of log-probabilities `p` (teacher) and `q` (student).
fn divergence(entry: &LossConfig, p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    match entry {
        LossConfig::ForwardKl(_) => kl(p, q),
        LossConfig::ReverseKl(_) => kl(q, p),
        LossConfig::Jsd(c) if c.beta == 0.0 => kl(p, q),
        LossConfig::Jsd(c) if c.beta == 1.0 => kl(q, p),
        LossConfig::Jsd(c) => {
            let mixture = mix(&p, c.beta, &q);
            kl(p, mixture.clone()).mul_scalar(c.beta) + kl(q, mixture).mul_scalar(1.0 - c.beta)
        }
        LossConfig::SkewKl(c) => {
            let mixture = mix(&p, c.alpha, &q);
            kl(p, mixture)
        }
        LossConfig::SkewReverseKl(c) => {
            let mixture = mix(&q, c.alpha, &p);
            kl(q, mixture)
        }
        LossConfig::Tvd(_) => (p.exp() - q.exp()).abs().sum().mul_scalar(0.5),
        LossConfig::UniversalLogit(_)
        | LossConfig::CrossEntropy(_)
        | LossConfig::HiddenMse(_)
        | LossConfig::HiddenCosine(_) => {
            unreachable!("not a divergence between distributions over one vocabulary")
        }
    }
}

fn kl(p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    (p.clone().exp() * (p - q)).sum()
}

/// log(share·e^a + (1 − share)·e^b); a floor keeps log 0 finite, where its weight in a KL is 0.
fn mix(a: &Tensor<2>, share: f64, b: &Tensor<2>) -> Tensor<2> {
    let sum = a.clone().exp().mul_scalar(share) + b.clone().exp().mul_scalar(1.0 - share);
    sum.clamp_min(1e-37).log()
}
