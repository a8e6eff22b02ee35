//! The triangular factor of an inverse, in blocks, so that products of matrices do the work.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::ops::product::product;

/// Rows that are worked on together.
const BLOCK: usize = 64;

/// U, upper triangular with a positive diagonal, such that UᵀU is the inverse of the symmetric `matrix` `[size, size]`;
/// `None` when that is not positive definite.
///
/// With the order of rows and columns reversed the matrix is L·Lᵀ; U is L⁻¹, reversed again. The inverse itself is never
/// computed.
pub(super) fn inverse_factor(mut matrix: Vec<f64>, size: usize) -> Option<Vec<f64>> {
    matrix.reverse();
    factor(&mut matrix, size)?;
    let mut inverse = invert_lower(&matrix, size);
    inverse.reverse();
    Some(inverse)
}

/// L in place of the lower triangle of L·Lᵀ.
fn factor(matrix: &mut [f64], size: usize) -> Option<()> {
    for first in (0..size).step_by(BLOCK) {
        let width = BLOCK.min(size - first);
        let end = first + width;
        let (above, below) = matrix.split_at_mut(end * size);
        for column in first..end {
            for row in column..end {
                let sum: f64 = (first..column)
                    .map(|at| above[row * size + at] * above[column * size + at])
                    .sum();
                let value = above[row * size + column] - sum;
                above[row * size + column] = match row == column {
                    true if value > 0.0 && value.is_finite() => value.sqrt(),
                    true => return None,
                    false => value / above[column * size + column],
                };
            }
        }
        let diagonal = |row: usize, column: usize| above[(first + row) * size + first + column];
        let rows = below.len() / size;
        let mut negative = vec![0.0; rows * width];
        (below.par_chunks_mut(size))
            .zip(negative.par_chunks_mut(width))
            .for_each(|(row, negative)| {
                let part = &mut row[first..end];
                for column in 0..width {
                    let sum: f64 = (0..column).map(|at| part[at] * diagonal(column, at)).sum();
                    part[column] = (part[column] - sum) / diagonal(column, column);
                    negative[column] = -part[column];
                }
            });
        // What is left, less its share: of each block of rows only the part up to the diagonal is needed.
        (below.par_chunks_mut(BLOCK * size))
            .enumerate()
            .for_each(|(block, part)| {
                let at = block * BLOCK;
                let count = part.len() / size;
                let columns = at + count;
                let rows = part.as_mut_ptr();
                // Safety: the task reads and writes different columns of its own rows; `negative` is read by all.
                unsafe {
                    product::<f64>(
                        (count, columns, width),
                        (rows.add(end), size),
                        (rows.add(first), size, 1),
                        (negative.as_ptr(), 1, width),
                        true,
                        Parallelism::None,
                    );
                }
            });
    }
    Some(())
}

/// L⁻¹, zeros above its diagonal.
fn invert_lower(lower: &[f64], size: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; size * size];
    for first in (0..size).step_by(BLOCK) {
        let width = BLOCK.min(size - first);
        let (above, rest) = inverse.split_at_mut(first * size);
        let rows = &mut rest[..width * size];
        // Safety: `rows` lies behind `above`; both are as long as the shape says.
        unsafe {
            product::<f64>(
                (width, first, first),
                (rows.as_mut_ptr(), size),
                (lower.as_ptr().add(first * size), size, 1),
                (above.as_ptr(), size, 1),
                false,
                Parallelism::Rayon(0),
            );
        }
        for row in 0..width {
            let (done, rest) = rows.split_at_mut(row * size);
            let this = &mut rest[..first + row + 1];
            this[..first].iter_mut().for_each(|value| *value = -*value);
            this[first + row] = 1.0;
            let factors = &lower[(first + row) * size + first..][..row + 1];
            for (done, factor) in done.chunks(size).zip(factors) {
                for (value, done) in this.iter_mut().zip(done) {
                    *value -= factor * done;
                }
            }
            this.iter_mut().for_each(|value| *value /= factors[row]);
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal_values;

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        for size in [1, 5, BLOCK, 3 * BLOCK + 7] {
            let x = normal_values(2 * size * size, 5, "x", 1.0);
            let entry = |row: usize, column: usize| -> f64 {
                let at = |i: usize| f64::from(x[i * size + row]) * f64::from(x[i * size + column]);
                (0..2 * size).map(at).sum()
            };
            let matrix: Vec<f64> = (0..size * size)
                .map(|at| entry(at / size, at % size))
                .collect();
            let factor = inverse_factor(matrix.clone(), size).unwrap();
            let multiply = |a: &dyn Fn(usize, usize) -> f64, b: &dyn Fn(usize, usize) -> f64| {
                let at = |place: usize| {
                    let (row, column) = (place / size, place % size);
                    (0..size).map(|i| a(row, i) * b(i, column)).sum()
                };
                (0..size * size).map(at).collect::<Vec<f64>>()
            };
            let inverse = multiply(&|i, j| factor[j * size + i], &|i, j| factor[i * size + j]);
            let one = multiply(&|i, j| inverse[i * size + j], &|i, j| matrix[i * size + j]);
            for (place, value) in one.iter().enumerate() {
                let (row, column) = (place / size, place % size);
                let expected = f64::from(u8::from(row == column));
                assert!(
                    (value - expected).abs() < 1e-9,
                    "{size}: {row} {column} {value}"
                );
                if row > column {
                    assert_eq!(factor[place], 0.0);
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_none() {
        assert_eq!(inverse_factor(vec![1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(inverse_factor(vec![f64::NAN], 1), None);
        assert_eq!(inverse_factor(vec![0.0; 4], 2), None);
    }
}
