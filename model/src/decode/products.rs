//! The matrix products of a step, cut into tasks by the rows of the matrices.

use std::ops::Range;

use super::weights::{BlockWeights, LowRank, Projection, Values};
use crate::ops::block_matrix::BlockMatrix;
use crate::ops::host::SharedOutput;
use crate::ops::row_product::{Destination, product};
use crate::ops::swiglu;
use crate::ops::team::Team;

/// Tasks of a loop a thread: enough that a thread that comes late leaves little to wait for.
const TASKS: usize = 4;
/// A task has at least so many rows of a matrix.
const TASK_ROWS: usize = 16;

/// Products of `x` with several matrices in one loop: that of a part goes to the columns from its offset of `out`
/// `[rows, stride]`.
pub(super) fn project(
    team: &Team,
    parts: &[(&Projection, usize)],
    x: &[f32],
    out: &mut [f32],
    stride: usize,
    add: bool,
) {
    let out = SharedOutput::new(out);
    let narrow: Vec<_> = parts.iter().map(|(part, _)| narrowed(part, x)).collect();
    let total = parts
        .iter()
        .map(|(part, _)| part.matrix.blocks().rows())
        .sum();
    over_rows(team, total, &|rows| {
        for ((part, offset), narrow) in parts.iter().zip(&narrow) {
            let matrix = part.matrix.blocks();
            let own = rows.start.max(*offset)..rows.end.min(offset + matrix.rows());
            if own.is_empty() {
                continue;
            }
            // SAFETY: each task has its own columns of the output.
            unsafe {
                let destination = Destination {
                    out: out.from(*offset),
                    stride,
                    bias: part.bias.as_ref().map(Values::slice),
                    add,
                };
                let own = own.start - offset..own.end - offset;
                product(matrix, own.clone(), x, destination);
                widen(narrow, own, destination);
            }
        }
    });
}

/// `outputs` are gate(x), up(x) and silu(gate) · up, all `[tokens, width]`: a task does all three for its columns.
pub(super) fn gated(team: &Team, block: &BlockWeights, x: &[f32], outputs: [&mut [f32]; 3]) {
    let width = block.gate.matrix.blocks().rows();
    let tokens = outputs[0].len() / width;
    let [gate, up, activation] = outputs.map(SharedOutput::new);
    let parts = [(&block.gate, gate), (&block.up, up)];
    let narrow = parts.map(|(part, _)| narrowed(part, x));
    over_rows(team, width, &|rows| {
        for ((part, out), narrow) in parts.into_iter().zip(&narrow) {
            let destination = Destination {
                bias: part.bias.as_ref().map(Values::slice),
                ..destination(out, width)
            };
            // SAFETY: each task has its own columns of the outputs.
            unsafe {
                product(part.matrix.blocks(), rows.clone(), x, destination);
                widen(narrow, rows.clone(), destination);
            }
        }
        for token in 0..tokens {
            let (at, count) = (token * width + rows.start, rows.len());
            // SAFETY: as above; this task has written gate and up.
            unsafe {
                let (gate, up) = (gate.slice(at, count), up.slice(at, count));
                swiglu::forward_block(activation.slice(at, count), gate, up);
            }
        }
    });
}

/// What an adapter makes of `x` before it is wide again, as [`LowRank::narrow`] gives it.
type Narrowed<'a> = Option<(&'a LowRank, Vec<f32>)>;

fn narrowed<'a>(part: &'a Projection, x: &[f32]) -> Narrowed<'a> {
    let adapter = part.adapter.as_ref()?;
    Some((adapter, adapter.narrow(x)))
}

/// Adds what an adapter gives for some rows of its matrix.
///
/// # Safety
/// As [`product`].
unsafe fn widen(narrow: &Narrowed, rows: Range<usize>, destination: Destination) {
    if let Some((adapter, narrow)) = narrow {
        let destination = Destination {
            bias: None,
            add: true,
            ..destination
        };
        // SAFETY: the caller's.
        unsafe { product(adapter.wide(), rows, narrow, destination) };
    }
}

/// Products of `x` with one matrix: `out` is `[tokens, rows of the matrix]`.
pub(super) fn multiply(team: &Team, matrix: BlockMatrix, x: &[f32], out: &mut [f32]) {
    let (out, stride) = (SharedOutput::new(out), matrix.rows());
    over_rows(team, stride, &|rows| {
        // SAFETY: each task has its own columns of the output.
        unsafe { product(matrix, rows, x, destination(out, stride)) };
    });
}

fn destination<'a>(out: SharedOutput<f32>, stride: usize) -> Destination<'a> {
    Destination {
        out,
        stride,
        bias: None,
        add: false,
    }
}

/// Cuts the rows of a matrix into tasks.
fn over_rows(team: &Team, total: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
    let tasks = TASKS * rayon::current_num_threads();
    let rows = total.div_ceil(tasks).next_multiple_of(4).max(TASK_ROWS);
    team.run(total.div_ceil(rows), &|number| {
        task(number * rows..total.min((number + 1) * rows));
    });
}
