//! Sums of squares in chunks of fixed size, a workgroup a chunk.

use burn::tensor::{DType, Tensor};
use cubecl::prelude::*;
use model::ops::cube::reduce::sum_of_units;
use model::ops::cube::{CubeTensor, UNITS, buffer, element, empty, tensor, workgroups};

/// Elements of a chunk.
const CHUNK: usize = 16384;

/// The sum of squares of every chunk of every tensor, in order; `None` of no tensors.
pub fn square_sums_of_chunks(tensors: &[&Tensor<2>]) -> Option<CubeTensor> {
    let buffers: Vec<CubeTensor> = tensors.iter().map(|x| buffer(x)).collect();
    let chunks = |x: &CubeTensor| x.meta.num_elements().div_ceil(CHUNK);
    let sums = empty(
        buffers.first()?,
        [buffers.iter().map(chunks).sum()],
        DType::F32,
    );
    let mut first = 0;
    for x in buffers {
        let (count, elements) = (chunks(&x), x.meta.num_elements());
        let element = element(x.dtype);
        square_sums_kernel::launch(
            &sums.client,
            workgroups(count),
            CubeDim::new_1d(UNITS),
            x.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            elements,
            first,
            count,
            CHUNK,
            element,
        );
        first += count;
    }
    Some(sums)
}

/// The sum of squares of each tensor, on the host: it waits once, for all of them.
pub fn square_sums(tensors: &[&Tensor<2>]) -> Vec<f64> {
    let Some(chunks) = square_sums_of_chunks(tensors) else {
        return Vec::new();
    };
    let chunks: Tensor<1> = tensor(chunks);
    let values: Vec<f32> = chunks.into_data().try_to_vec().expect("sums are f32");
    let mut rest = &values[..];
    let lengths = tensors
        .iter()
        .map(|x| x.shape().num_elements().div_ceil(CHUNK));
    lengths
        .map(|length| {
            let (own, others) = rest.split_at(length);
            rest = others;
            own.iter().copied().map(f64::from).sum()
        })
        .collect()
}

#[cube(launch)]
fn square_sums_kernel<F: Float>(
    x: &[F],
    sums: &mut [f32],
    elements: usize,
    first: usize,
    chunks: usize,
    #[comptime] chunk_elements: usize,
    #[define(F)] _type: ElemType,
) {
    let chunk = CUBE_POS;
    if chunk >= chunks {
        terminate!();
    }
    let mut shared = Shared::new_slice(UNITS as usize);
    let end = min((chunk + 1) * chunk_elements, elements);
    let mut sum = 0.0f32;
    let mut i = chunk * chunk_elements + UNIT_POS as usize;
    while i < end {
        let value = f32::cast_from(x[i]);
        sum += value * value;
        i += CUBE_DIM as usize;
    }
    let sum = sum_of_units(sum, &mut shared);
    if UNIT_POS == 0 {
        sums[first + chunk] = sum;
    }
}
