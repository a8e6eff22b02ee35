//! The gradient of an embedding: a workgroup a token id that occurs, which adds its rows in their order.

use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::{UNITS, buffer, element, tensor, upload, workgroups, writable};

/// As [`crate::ops::embedding::accumulate_gradient`].
pub fn accumulate_gradient(gradient: Tensor<2>, ids: &[u32], dy: &Tensor<2>) -> Tensor<2> {
    if ids.is_empty() {
        return gradient;
    }
    let width = dy.dims()[1];
    let (gradient, dy) = (writable(gradient), buffer(dy));
    let occurrences = Occurrences::of(ids);
    let types = [element(gradient.dtype), element(dy.dtype)];
    accumulate_kernel::launch(
        &gradient.client,
        workgroups(occurrences.ids.len()),
        CubeDim::new_1d(UNITS),
        gradient.clone().into_buffer_arg(),
        dy.into_buffer_arg(),
        upload(&gradient, &occurrences.ids).into_buffer_arg(),
        upload(&gradient, &occurrences.ends).into_buffer_arg(),
        upload(&gradient, &occurrences.positions).into_buffer_arg(),
        occurrences.ids.len(),
        width,
        types,
    );
    tensor(gradient)
}

/// Where each id occurs.
struct Occurrences {
    /// The ids that occur, each once.
    ids: Vec<u32>,
    /// Where the positions of each id end; they begin where those of the id before end.
    ends: Vec<u32>,
    positions: Vec<u32>,
}

impl Occurrences {
    fn of(all: &[u32]) -> Self {
        let mut positions: Vec<u32> = (0..all.len() as u32).collect();
        positions.sort_by_key(|&position| all[position as usize]);
        let (mut ids, mut ends) = (Vec::new(), Vec::new());
        for group in positions.chunk_by(|&a, &b| all[a as usize] == all[b as usize]) {
            ids.push(all[group[0] as usize]);
            ends.push(ends.last().copied().unwrap_or(0) + group.len() as u32);
        }
        Self {
            ids,
            ends,
            positions,
        }
    }
}

#[cube(launch)]
fn accumulate_kernel<G: Float, F: Float>(
    gradient: &mut [G],
    dy: &[F],
    ids: &[u32],
    ends: &[u32],
    positions: &[u32],
    count: usize,
    width: usize,
    #[define(G, F)] _types: [ElemType; 2],
) {
    let number = CUBE_POS;
    if number >= count {
        terminate!();
    }
    let row = ids[number] as usize * width;
    let end = ends[number] as usize;
    let mut start = 0usize;
    if number > 0 {
        start = ends[number - 1] as usize;
    }
    let mut column = UNIT_POS as usize;
    while column < width {
        let mut sum = f32::cast_from(gradient[row + column]);
        for i in start..end {
            sum += f32::cast_from(dy[positions[i] as usize * width + column]);
        }
        gradient[row + column] = G::cast_from(sum);
        column += CUBE_DIM as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_keep_their_order() {
        let found = Occurrences::of(&[7, 2, 7, 7, 0]);
        assert_eq!(found.ids, [0, 2, 7]);
        assert_eq!(found.ends, [1, 2, 5]);
        assert_eq!(found.positions, [4, 1, 0, 2, 3]);
    }
}
