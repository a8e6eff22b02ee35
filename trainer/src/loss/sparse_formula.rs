//! [`super::sparse`] as tensor formulas, for devices and types without a kernel.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use teacher::sparse_targets::SparseTargets;

use super::sparse::check;
use super::{Labels, LossEntries, LossRowsError};

/// Keeps the logarithm of a student's tail finite where it underflows.
const SMALLEST_TAIL: f64 = 1e-30;

/// The gradient by the logits `[rows, columns]`, and the sum over the rows of each loss, `[losses]` on their device.
///
/// # Errors
/// As [`super::sparse::sparse_rows`].
pub fn sparse_chunk(
    entries: &LossEntries,
    logits: Tensor<2>,
    targets: &SparseTargets,
    first: usize,
    labels: Labels,
    scale: f64,
) -> Result<(Tensor<2>, Tensor<1>), LossRowsError> {
    let [rows, columns] = logits.dims();
    check(entries, columns, targets, first, labels)?;
    let dtype = logits.dtype();
    let logits = match dtype {
        DType::F64 => logits,
        _ => logits.cast(DType::F32),
    };
    let (device, real) = (logits.device(), logits.dtype());
    let options = (&device, real);
    let dense = Dense::new(&logits, targets, first);
    let mut gradient = logits.zeros_like();
    let mut values: Vec<Tensor<1>> = vec![Tensor::zeros([1], options); entries.count()];
    for group in &entries.groups {
        let log_q = activation::log_softmax(logits.clone().div_scalar(group.temperature), 1);
        let q = log_q.clone().exp();
        for term in &group.divergences {
            let factor = term.gradient_factor * scale;
            let in_tail = q.clone() * dense.rest.clone();
            let tail = in_tail.clone().sum_dim(1).clamp_min(SMALLEST_TAIL);
            let pull = in_tail * (dense.tails.clone() / tail.clone());
            let known = q.clone() * dense.known.clone();
            let step = (known - dense.probabilities.clone() - pull).mul_scalar(factor);
            gradient = gradient + step;
            let cross = (dense.probabilities.clone() * log_q.clone()).sum()
                + (dense.tails.clone() * tail.log()).sum();
            let value = (cross.neg() - dense.entropies.clone()).mul_scalar(term.value_factor);
            values[term.slot] = values[term.slot].clone() + value;
        }
        for term in &group.labels {
            let ids: Vec<i32> = labels.targets.iter().map(|id| *id as i32).collect();
            let data = TensorData::new(ids, [rows, 1]);
            let index = Tensor::<2, Int>::from_data(data, (&device, DType::I32));
            let factor = term.weight * scale;
            let ones = Tensor::full([rows, 1], -factor, options);
            gradient = (gradient + q.clone().mul_scalar(factor)).scatter(
                1,
                index.clone(),
                ones,
                IndexingUpdateOp::Add,
            );
            let value = log_q.clone().gather(1, index).sum().neg();
            values[term.slot] = values[term.slot].clone() + value;
        }
    }
    Ok((gradient.cast(dtype), Tensor::cat(values, 0)))
}

/// The targets of some rows over all columns.
struct Dense {
    /// `[rows, columns]`; 0 where nothing is listed.
    probabilities: Tensor<2>,
    /// `[rows, columns]`; 1 for tokens of the teacher that are not listed.
    rest: Tensor<2>,
    /// `[rows, 1]`
    tails: Tensor<2>,
    /// `[rows, 1]`; 0 where the teacher has said nothing.
    known: Tensor<2>,
    /// Their sum, `[1]`.
    entropies: Tensor<1>,
}

impl Dense {
    fn new(logits: &Tensor<2>, targets: &SparseTargets, first: usize) -> Self {
        let [rows, columns] = logits.dims();
        let options = (&logits.device(), logits.dtype());
        let positions = || first..first + rows;
        let width = (positions().map(|i| targets.entries(i).0.len()).max()).unwrap_or(0);
        // Lists of one length: what is filled up adds 0 to the first column.
        let width = width.max(1);
        let mut ids = vec![0_i32; rows * width];
        let mut listed = vec![0.0_f32; rows * width];
        let mut probabilities = vec![0.0_f32; rows * width];
        for (row, position) in positions().enumerate() {
            let (of_row, p) = targets.entries(position);
            for (i, (id, p)) in of_row.iter().zip(p).enumerate() {
                ids[row * width + i] = *id as i32;
                probabilities[row * width + i] = *p;
                listed[row * width + i] = 1.0;
            }
        }
        let shape = [rows, width];
        let index = (&logits.device(), DType::I32);
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), index);
        let spread = |values: Vec<f32>| {
            let values = Tensor::<2>::from_data(TensorData::new(values, shape), options);
            Tensor::zeros([rows, columns], options).scatter(
                1,
                ids.clone(),
                values,
                IndexingUpdateOp::Add,
            )
        };
        let tokens = Tensor::ones([rows, targets.vocabulary], options);
        let tokens = match columns > targets.vocabulary {
            true => {
                let padding = Tensor::zeros([rows, columns - targets.vocabulary], options);
                Tensor::cat(vec![tokens, padding], 1)
            }
            false => tokens,
        };
        let tails = targets.tails[positions()].to_vec();
        let known: Vec<f32> = positions()
            .map(|position| f32::from(u8::from(targets.is_known(position))))
            .collect();
        let entropy: f64 = targets.entropies[positions()].iter().sum();
        Self {
            probabilities: spread(probabilities),
            rest: tokens - spread(listed),
            tails: Tensor::from_data(TensorData::new(tails, [rows, 1]), options),
            known: Tensor::from_data(TensorData::new(known, [rows, 1]), options),
            entropies: Tensor::full([1], entropy, options),
        }
    }
}
