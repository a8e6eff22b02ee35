//! Whether a step may change the weights, and by which factor its gradients are clipped, as a device decides it: the host
//! reads it later, for many steps at once.

use burn::tensor::Tensor;

/// `[gradient norm, clip factor, halted, sums of the losses...]` in `f32`. `halted` is 1 from the first step on whose loss or
/// norm is not finite: the weights then stay as they are.
#[derive(Debug, Clone)]
pub struct Verdict(pub(super) Box<Tensor<1>>);

/// Numbers before the sums.
pub(super) const HEADER: usize = 3;

/// A verdict that the host has read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadVerdict {
    /// Before clipping.
    pub gradient_norm: f64,
    /// The weights are those from before this step, or from before an earlier one.
    pub halted: bool,
    pub loss_sums: Vec<f64>,
}

impl Verdict {
    /// Waits for the device, once for all.
    pub fn read_all(verdicts: &[&Self]) -> Vec<ReadVerdict> {
        if verdicts.is_empty() {
            return Vec::new();
        }
        let tensors = verdicts.iter().map(|v| *v.0.clone()).collect();
        let values = Tensor::cat(tensors, 0).into_data();
        let values: Vec<f32> = values.try_to_vec().expect("verdicts are f32");
        let mut rest = &values[..];
        let lengths = verdicts.iter().map(|v| v.0.dims()[0]);
        lengths
            .map(|length| {
                let (own, others) = rest.split_at(length);
                rest = others;
                ReadVerdict {
                    gradient_norm: f64::from(own[0]),
                    halted: own[2] > 0.0,
                    loss_sums: own[HEADER..].iter().copied().map(f64::from).collect(),
                }
            })
            .collect()
    }
}
