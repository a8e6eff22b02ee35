//! Integer weights in groups along the rows: value = scale · (code − zero). Scales are `f16` numbers from the start, so
//! that files which store them so hold exactly these values.

use half::f16;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntegerConfig {
    /// Bits of a code, 2 to 8.
    #[schemars(range(min = 2, max = 8))]
    pub bits: u8,
    /// Columns of a row that share a scale. A whole row when left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub group_size: Option<usize>,
    /// The zero is the middle code of every group.
    #[serde(default)]
    pub symmetric: bool,
}

#[derive(Debug, Clone, PartialEq, Error)]
pub enum IntegerError {
    #[error("{bits} bits a code; accepted: 2 to 8")]
    Bits { bits: u8 },
    #[error(
        "a row of {columns} values is not a whole number of groups of {group_size}\n\
         hint: `group_size` has to divide {columns}; without it each row has one scale"
    )]
    PartialGroup { columns: usize, group_size: usize },
    #[error("{values} values are not {rows} rows of {columns}")]
    Shape {
        values: usize,
        rows: usize,
        columns: usize,
    },
    #[error("value {index} is {value}; only numbers that f16 scales reach can be quantised")]
    Range { index: usize, value: f32 },
}

impl IntegerConfig {
    /// Columns of a group, for rows of `columns` values.
    ///
    /// # Errors
    /// [`IntegerError::Bits`]; [`IntegerError::PartialGroup`].
    pub fn group_columns(&self, columns: usize) -> Result<usize, IntegerError> {
        if !(2..=8).contains(&self.bits) {
            return Err(IntegerError::Bits { bits: self.bits });
        }
        let group_size = self.group_size.unwrap_or(columns);
        if group_size == 0 || !columns.is_multiple_of(group_size) {
            return Err(IntegerError::PartialGroup {
                columns,
                group_size,
            });
        }
        Ok(group_size)
    }
}

/// What the codes of a group stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    pub scale: f32,
    pub zero: u8,
    /// The largest code.
    pub last: u8,
}

impl Grid {
    /// The grid from the least to the largest of `values` and 0, as GPTQ's reference code lays it (arXiv 2210.17323);
    /// a symmetric one has as much room below 0 as above.
    pub fn of(values: impl IntoIterator<Item = f32>, bits: u8, symmetric: bool) -> Self {
        let last = u8::MAX >> (8 - bits);
        let (mut least, mut most) = (0.0_f32, 0.0_f32);
        for value in values {
            (least, most) = (least.min(value), most.max(value));
        }
        if symmetric {
            most = most.max(-least);
            least = -most;
        }
        if most == least {
            (least, most) = (-1.0, 1.0);
        }
        let scale = f16::from_f32((most - least) / f32::from(last));
        let scale = f32::from(scale.max(f16::from_bits(1)));
        let zero = match symmetric {
            true => 1 << (bits - 1),
            false => (-least / scale)
                .round_ties_even()
                .clamp(0.0, f32::from(last)) as u8,
        };
        Self { scale, zero, last }
    }

    /// The nearest code.
    pub fn code(&self, value: f32) -> u8 {
        let code = (value / self.scale).round_ties_even() + f32::from(self.zero);
        code.clamp(0.0, f32::from(self.last)) as u8
    }

    pub fn value(&self, code: u8) -> f32 {
        self.scale * (f32::from(code) - f32::from(self.zero))
    }
}

/// A quantised matrix `[rows, columns]`.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerMatrix {
    pub rows: usize,
    pub columns: usize,
    /// Bits of a code, 2 to 8.
    pub bits: u8,
    /// Columns of a row that share a scale.
    pub group_size: usize,
    /// `[rows, columns]`
    pub codes: Vec<u8>,
    /// `[rows, groups]`
    pub scales: Vec<f32>,
    /// `[rows, groups]`
    pub zeros: Vec<u8>,
    /// The group of each column, where it is not that of its place.
    pub group_of_column: Option<Vec<u32>>,
}

impl IntegerMatrix {
    /// Every value to the nearest one of its group's grid.
    ///
    /// # Errors
    /// When a row is not a whole number of groups, or a value is out of reach.
    pub fn round_to_nearest(
        values: &[f32],
        [rows, columns]: [usize; 2],
        config: &IntegerConfig,
    ) -> Result<Self, IntegerError> {
        let group_size = config.group_columns(columns)?;
        check_values(values, [rows, columns])?;
        let grid = |group: &[f32]| Grid::of(group.iter().copied(), config.bits, config.symmetric);
        let grids: Vec<Grid> = values.par_chunks(group_size).map(grid).collect();
        let mut codes = vec![0; values.len()];
        (codes.par_chunks_mut(group_size))
            .zip(values.par_chunks(group_size))
            .zip(&grids)
            .for_each(|((codes, values), grid)| {
                for (code, value) in codes.iter_mut().zip(values) {
                    *code = grid.code(*value);
                }
            });
        Ok(Self {
            rows,
            columns,
            bits: config.bits,
            group_size,
            codes,
            scales: grids.iter().map(|grid| grid.scale).collect(),
            zeros: grids.iter().map(|grid| grid.zero).collect(),
            group_of_column: None,
        })
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.columns / self.group_size
    }

    /// The group of a column.
    pub fn group(&self, column: usize) -> usize {
        match &self.group_of_column {
            Some(groups) => groups[column] as usize,
            None => column / self.group_size,
        }
    }

    /// Every value, row after row.
    pub fn dequantize(&self) -> Vec<f32> {
        let groups = self.groups();
        let mut values = vec![0.0; self.codes.len()];
        (values.par_chunks_mut(self.columns))
            .zip(self.codes.par_chunks(self.columns))
            .zip(self.scales.par_chunks(groups))
            .zip(self.zeros.par_chunks(groups))
            .for_each(|(((values, codes), scales), zeros)| {
                for (column, (value, code)) in values.iter_mut().zip(codes).enumerate() {
                    let group = self.group(column);
                    *value = scales[group] * (f32::from(*code) - f32::from(zeros[group]));
                }
            });
        values
    }

    /// Bytes of the packed matrix: its codes, a scale of 16 bits and a zero of `bits` a group, and the group of each
    /// column where it is stored.
    pub fn bytes(&self) -> usize {
        let bits = usize::from(self.bits);
        let codes = (self.codes.len() * bits).div_ceil(8);
        let groups = 2 * self.scales.len() + (self.zeros.len() * bits).div_ceil(8);
        let order = self
            .group_of_column
            .as_ref()
            .map_or(0, |list| 4 * list.len());
        codes + groups + order
    }
}

/// Whether the values are those of a matrix that grids of any bits reach.
pub(crate) fn check_values(
    values: &[f32],
    [rows, columns]: [usize; 2],
) -> Result<(), IntegerError> {
    if values.len() != rows * columns {
        return Err(IntegerError::Shape {
            values: values.len(),
            rows,
            columns,
        });
    }
    let out = |value: &f32| !value.is_finite() || value.abs() >= f32::from(f16::MAX);
    match values.iter().position(out) {
        Some(index) => Err(IntegerError::Range {
            index,
            value: values[index],
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal_values;

    fn config(bits: u8, group_size: Option<usize>, symmetric: bool) -> IntegerConfig {
        IntegerConfig {
            bits,
            group_size,
            symmetric,
        }
    }

    #[test]
    fn codes_and_scales_are_those_of_the_formula() {
        let values = [-1.0, 0.0, 0.5, 2.0, -4.0, 4.0, 1.0, -0.4];
        let matrix = IntegerMatrix::round_to_nearest(&values, [2, 4], &config(2, None, false));
        let matrix = matrix.unwrap();
        assert_eq!(matrix.scales, [1.0, f32::from(f16::from_f32(8.0 / 3.0))]);
        assert_eq!(matrix.zeros, [1, 2]);
        assert_eq!(matrix.codes, [0, 1, 1, 3, 0, 3, 2, 2]);
        assert_eq!(matrix.dequantize()[..4], [-1.0, 0.0, 0.0, 2.0]);
        assert_eq!(matrix.bytes(), 2 + 4 + 1);
        let matrix = IntegerMatrix::round_to_nearest(&values, [2, 4], &config(4, Some(2), true));
        let matrix = matrix.unwrap();
        assert_eq!(matrix.zeros, [8; 4]);
        let scale = f32::from(f16::from_f32(2.0 / 15.0));
        assert_eq!(matrix.scales[0], scale);
        assert_eq!(matrix.dequantize()[..2], [-7.0 * scale - scale, 0.0]);
    }

    #[test]
    fn no_value_is_further_than_half_a_step_and_a_scale_rounds() {
        for bits in 2..=8 {
            for symmetric in [false, true] {
                let values = normal_values(24 * 96, 7, "integer", 0.3);
                let config = config(bits, Some(32), symmetric);
                let matrix = IntegerMatrix::round_to_nearest(&values, [24, 96], &config).unwrap();
                let back = matrix.dequantize();
                let last = u8::MAX >> (8 - bits);
                assert!(matrix.codes.iter().all(|code| *code <= last));
                for (index, (value, found)) in values.iter().zip(&back).enumerate() {
                    let scale = matrix.scales[index / 32];
                    // A symmetric grid has its half step more below than above; a rounded zero moves the ends by
                    // half a step, too.
                    let room = scale * (1.0 + 0.001 * f32::from(last));
                    assert!((value - found).abs() <= room, "{bits}: {value} {found}");
                }
            }
        }
    }

    #[test]
    fn groups_may_lie_anywhere() {
        let matrix = IntegerMatrix {
            rows: 1,
            columns: 4,
            bits: 4,
            group_size: 2,
            codes: vec![1, 2, 3, 4],
            scales: vec![1.0, 10.0],
            zeros: vec![0, 1],
            group_of_column: Some(vec![1, 0, 0, 1]),
        };
        assert_eq!(matrix.dequantize(), [0.0, 2.0, 3.0, 30.0]);
        assert_eq!(matrix.bytes(), 2 + 4 + 1 + 16);
    }

    #[test]
    fn zeros_stay_zeros_and_what_cannot_be_held_is_told() {
        let zeros = IntegerMatrix::round_to_nearest(&[0.0; 8], [1, 8], &config(3, None, false));
        assert_eq!(zeros.unwrap().dequantize(), [0.0; 8]);
        let tiny = IntegerMatrix::round_to_nearest(&[1e-20; 8], [1, 8], &config(3, None, true));
        assert_eq!(tiny.unwrap().dequantize(), [0.0; 8]);
        let quantize =
            |values: &[f32], config| IntegerMatrix::round_to_nearest(values, [1, 8], &config);
        assert_eq!(
            quantize(&[0.0; 8], config(4, Some(3), false)),
            Err(IntegerError::PartialGroup {
                columns: 8,
                group_size: 3
            })
        );
        for bits in [0, 1, 9] {
            let error = quantize(&[0.0; 8], config(bits, None, false));
            assert_eq!(error, Err(IntegerError::Bits { bits }));
        }
        assert!(matches!(
            quantize(&[0.0; 7], config(4, None, false)),
            Err(IntegerError::Shape { values: 7, .. })
        ));
        let mut values = [0.0; 8];
        values[5] = f32::NAN;
        assert!(matches!(
            quantize(&values, config(4, None, false)),
            Err(IntegerError::Range { index: 5, .. })
        ));
    }
}
