//! Embedding: one row of a matrix a token, and the scatter-add that is its gradient.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

use super::host::{HostTensor, from_values, is_host, map_in_place};
use crate::span::Cost;
use crate::{for_real, operation};

/// Rows `ids` of `weight` `[vocabulary, width]`: `[ids, width]`.
pub fn forward(weight: &Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let numbers = 2 * ids.len() * weight.dims()[1];
    let _span = operation!("embedding forward", Cost::numbers(numbers, weight.dtype()));
    if !is_host(weight) {
        return weight.clone().select(0, index_tensor(weight, ids));
    }
    let width = weight.dims()[1];
    for_real!(weight.dtype(), F, {
        let weight = HostTensor::held(weight);
        let weight = weight.slice::<F>();
        let mut out = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            out.extend_from_slice(&weight[id as usize * width..][..width]);
        }
        from_values(out, [ids.len(), width])
    })
}

/// Adds the rows of `dy` `[ids, width]` to rows `ids` of `gradient` `[vocabulary, width]`, in order,
/// so that repeated ids always sum to the same bits.
pub fn accumulate_gradient(gradient: Tensor<2>, ids: &[u32], dy: &Tensor<2>) -> Tensor<2> {
    let _span = operation!("embedding backward", Cost::arrays([dy, dy, dy]));
    #[cfg(feature = "cube")]
    if super::cube::runs(dy) {
        return super::cube::embedding::accumulate_gradient(gradient, ids, dy);
    }
    if !is_host(dy) {
        let index = index_tensor(dy, ids);
        let dy = dy.clone().cast(gradient.dtype());
        return gradient.select_assign(0, index, dy, IndexingUpdateOp::Add);
    }
    let width = dy.dims()[1];
    for_real!(dy.dtype(), F, {
        let dy = HostTensor::held(dy);
        let dy = dy.slice::<F>();
        map_in_place::<F, 2>(gradient, |gradient| {
            for (&id, dy) in ids.iter().zip(dy.chunks(width)) {
                let row = &mut gradient[id as usize * width..][..width];
                for (sum, value) in row.iter_mut().zip(dy) {
                    *sum += *value;
                }
            }
        })
    })
}

fn index_tensor(like: &Tensor<2>, ids: &[u32]) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let length = ids.len();
    Tensor::from_data(TensorData::new(ids, [length]), (&like.device(), DType::I32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, random};

    #[test]
    fn repeated_rows_add_up() {
        let weight = random([5, 3], 1);
        let ids = [4, 0, 4, 2];
        let dy = random([4, 3], 2);
        let gradient = accumulate_gradient(weight.zeros_like(), &ids, &dy);
        assert_gradient(&weight, &gradient, |w| {
            (forward(w, &ids) * dy.clone()).sum()
        });
        let plain = weight.clone().select(0, index_tensor(&weight, &ids));
        assert_close(&forward(&weight, &ids), &plain, 0.0);
    }

    #[cfg(feature = "vulkan")]
    #[test]
    fn the_kernel_equals_formula_and_loop() {
        use crate::ops::check::{pair, values, vulkan};
        let Some(device) = vulkan() else { return };
        for (vocabulary, width, tokens) in [(1, 1, 1), (5, 3, 9), (97, 300, 1000), (7, 2, 0)] {
            let ids: Vec<u32> = (0..tokens).map(|i| i * i * 31 % vocabulary).collect();
            let (sum, cpu_sum) = pair(random([vocabulary as usize, width], 1), &device);
            let (dy, cpu_dy) = pair(random([tokens as usize, width], 2), &device);
            let got = accumulate_gradient(sum.clone(), &ids, &dy);
            assert_close(&got, &accumulate_gradient(cpu_sum, &ids, &cpu_dy), 1e-6);
            let again = accumulate_gradient(sum.clone(), &ids, &dy);
            assert_eq!(values(&got), values(&again));
            if tokens > 0 {
                let index = index_tensor(&dy, &ids);
                let formula = sum.select_assign(0, index, dy, IndexingUpdateOp::Add);
                assert_close(&got, &formula, 1e-6);
            }
        }
    }
}
