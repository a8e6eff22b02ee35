//! GPTQ (arXiv 2210.17323): the columns of a matrix are rounded one after the other, and those that are left take up the
//! error, so that the outputs on calibration text change least.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, InputStatistics};
use super::cholesky::inverse_factor;
use super::integer::{Grid, IntegerConfig, IntegerError, IntegerMatrix, check_values};
use super::layers::{QuantizeError, QuantizedLayers, check_groups, take_values};
use crate::batch::TokenBatch;
use crate::block::LinearInput;
use crate::decoder::Decoder;
use crate::ops::simd::widest;

/// Rows that one task takes through all columns: they share what is read of the inverse.
const ROWS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GptqConfig {
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
    /// What is added to the diagonal of the Hessian, as a share of its mean; above 0.
    #[serde(default = "default_damping")]
    #[schemars(range(max = 1000000), extend("exclusiveMinimum" = 0))]
    pub damping: f64,
    /// Columns with the largest inputs first; groups are then of columns in that order.
    #[serde(default)]
    pub activation_order: bool,
}

fn default_damping() -> f64 {
    0.01
}

impl GptqConfig {
    pub fn integer(&self) -> IntegerConfig {
        IntegerConfig {
            bits: self.bits,
            group_size: self.group_size,
            symmetric: self.symmetric,
        }
    }
}

/// Quantises the linear layers of every block, block after block: the inputs of each come from the quantised blocks
/// before it. `progress` hears the number of blocks done.
///
/// # Errors
/// Before anything changes: rows that are no whole groups, no token. Later: weights or Hessians that are not finite.
pub fn quantize(
    decoder: &mut Decoder,
    batches: &[TokenBatch],
    config: &GptqConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<QuantizedLayers, QuantizeError> {
    check_groups(decoder, &config.integer())?;
    let mut calibration = Calibration::new(decoder, batches)?;
    let mut layers = Vec::new();
    for layer in 0..decoder.blocks.len() {
        let statistics = calibration.statistics(decoder, layer);
        for (input, statistics) in LinearInput::ALL.into_iter().zip(statistics) {
            let mut readers = input.readers_mut(&mut decoder.blocks[layer]);
            let first = readers[0].weight.name();
            let inverse = InverseHessian::new(&statistics, config);
            let inverse = inverse.ok_or_else(|| QuantizeError::NotPositiveDefinite {
                tensor: first.to_owned(),
            })?;
            for linear in &mut readers {
                let matrix = inverse.quantize(&linear.weight.values(), &config.integer());
                let matrix = matrix.map_err(QuantizeError::matrix(linear))?;
                take_values(linear, &matrix);
                layers.push((linear.module().to_owned(), matrix));
            }
        }
        if layer + 1 < decoder.blocks.len() {
            calibration.advance(decoder, layer);
        }
        progress(layer + 1);
    }
    Ok(layers)
}

/// The Hessian 2·X·Xᵀ of a layer's squared error, damped, inverted and factored: UᵀU.
struct InverseHessian {
    /// U, `[columns, columns]`, in the order of the columns' turns.
    factor: Vec<f32>,
    /// The columns in the order of their turns, when that is not their own.
    order: Option<Vec<usize>>,
    /// Columns that read nothing but zeros.
    dead: Vec<bool>,
}

impl InverseHessian {
    /// `None` when it cannot be inverted.
    fn new(statistics: &InputStatistics, config: &GptqConfig) -> Option<Self> {
        let columns = statistics.magnitudes.len();
        let scale = 2.0 / statistics.tokens as f64;
        let products = &statistics.products;
        let mut diagonal: Vec<f64> = (0..columns)
            .map(|at| scale * f64::from(products[at * columns + at]))
            .collect();
        let dead: Vec<bool> = diagonal.iter().map(|value| *value == 0.0).collect();
        for value in diagonal.iter_mut().filter(|value| **value == 0.0) {
            *value = 1.0;
        }
        let order = config.activation_order.then(|| {
            let mut order: Vec<usize> = (0..columns).collect();
            order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
            order
        });
        let damping = config.damping * diagonal.iter().sum::<f64>() / columns as f64;
        let place = |turn: usize| order.as_ref().map_or(turn, |order| order[turn]);
        let mut hessian = vec![0.0; columns * columns];
        (hessian.par_chunks_mut(columns).enumerate()).for_each(|(row, values)| {
            let from = &products[place(row) * columns..][..columns];
            for (column, value) in values.iter_mut().enumerate() {
                *value = scale * f64::from(from[place(column)]);
            }
            values[row] = diagonal[place(row)] + damping;
        });
        let factor = inverse_factor(hessian, columns)?;
        let factor: Vec<f32> = factor.into_iter().map(|value| value as f32).collect();
        let is_finite = factor.iter().all(|value| value.is_finite());
        is_finite.then_some(Self {
            factor,
            order,
            dead,
        })
    }

    /// Rounds `values` in rows of as many columns. A group's grid is laid when its first column has its turn, over what its
    /// weights have become by then.
    fn quantize(
        &self,
        values: &[f32],
        config: &IntegerConfig,
    ) -> Result<IntegerMatrix, IntegerError> {
        let columns = self.dead.len();
        let rows = values.len() / columns;
        check_values(values, [rows, columns])?;
        let group_size = config.group_columns(columns)?;
        let groups = columns / group_size;
        let mut matrix = IntegerMatrix {
            rows,
            columns,
            bits: config.bits,
            group_size,
            codes: vec![0; rows * columns],
            scales: vec![0.0; rows * groups],
            zeros: vec![0; rows * groups],
            group_of_column: self.order.as_ref().map(|order| {
                let mut list = vec![0; columns];
                for (turn, &column) in order.iter().enumerate() {
                    list[column] = (turn / group_size) as u32;
                }
                list
            }),
        };
        (matrix.codes.par_chunks_mut(ROWS * columns))
            .zip(matrix.scales.par_chunks_mut(ROWS * groups))
            .zip(matrix.zeros.par_chunks_mut(ROWS * groups))
            .zip(values.par_chunks(ROWS * columns))
            .for_each(|(((codes, scales), zeros), values)| {
                widest(
                    #[inline(always)]
                    || {
                        let store = |row: usize, group: usize, grid: Grid| {
                            scales[row * groups + group] = grid.scale;
                            zeros[row * groups + group] = grid.zero;
                        };
                        self.round_rows(values, group_size, config, codes, store);
                    },
                );
            });
        Ok(matrix)
    }

    /// Takes some rows through all columns; `store` gets the grid of each row and group.
    #[inline(always)]
    fn round_rows(
        &self,
        values: &[f32],
        group_size: usize,
        config: &IntegerConfig,
        codes: &mut [u8],
        mut store: impl FnMut(usize, usize, Grid),
    ) {
        let columns = self.dead.len();
        let place = |turn: usize| self.order.as_ref().map_or(turn, |order| order[turn]);
        let mut rows: Vec<Vec<f32>> = (values.chunks(columns))
            .map(|row| {
                let value = |column: usize| match self.dead[column] {
                    true => 0.0,
                    false => row[column],
                };
                (0..columns).map(|turn| value(place(turn))).collect()
            })
            .collect();
        let mut grids = Vec::with_capacity(rows.len());
        for turn in 0..columns {
            if turn.is_multiple_of(group_size) {
                grids.clear();
                for (row, values) in rows.iter().enumerate() {
                    let group = values[turn..turn + group_size].iter().copied();
                    let grid = Grid::of(group, config.bits, config.symmetric);
                    store(row, turn / group_size, grid);
                    grids.push(grid);
                }
            }
            let factor = &self.factor[turn * columns..][..columns];
            for (row, (values, grid)) in rows.iter_mut().zip(&grids).enumerate() {
                let code = grid.code(values[turn]);
                codes[row * columns + place(turn)] = code;
                let error = (values[turn] - grid.value(code)) / factor[turn];
                for (value, factor) in values[turn + 1..].iter_mut().zip(&factor[turn + 1..]) {
                    *value -= error * factor;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Golden(safetensors::SafeTensors<'static>);

    impl Golden {
        fn open() -> Self {
            let bytes = include_bytes!("../../tests/golden/gptq.safetensors");
            Self(safetensors::SafeTensors::deserialize(bytes).unwrap())
        }

        fn floats(&self, name: &str) -> Vec<f32> {
            let fours = self.0.tensor(name).unwrap().data().as_chunks::<4>().0;
            fours.iter().map(|four| f32::from_le_bytes(*four)).collect()
        }

        fn bytes(&self, name: &str) -> &[u8] {
            self.0.tensor(name).unwrap().data()
        }

        fn shape(&self, name: &str) -> Vec<usize> {
            self.0.tensor(name).unwrap().shape().to_vec()
        }
    }

    fn statistics(x: &[f32], columns: usize) -> InputStatistics {
        let sum = |f: &dyn Fn(&[f32]) -> f32| x.chunks(columns).map(f).sum();
        InputStatistics {
            tokens: x.len() / columns,
            products: (0..columns * columns)
                .map(|at| sum(&|x| x[at / columns] * x[at % columns]))
                .collect(),
            magnitudes: (0..columns).map(|at| sum(&|x| x[at].abs())).collect(),
        }
    }

    /// ‖(W − Q)·X‖²
    fn output_error(weights: &[f32], quantized: &[f32], x: &[f32], columns: usize) -> f64 {
        let rows = weights.chunks(columns).zip(quantized.chunks(columns));
        rows.map(|(weights, quantized)| -> f64 {
            let at = |x: &[f32]| {
                let terms = x.iter().zip(weights).zip(quantized);
                let sum: f64 = terms.map(|((x, w), q)| f64::from(x * (w - q))).sum();
                sum * sum
            };
            x.chunks(columns).map(at).sum()
        })
        .sum()
    }

    /// `tests/golden/make_gptq.py` made the numbers.
    #[test]
    fn codes_and_scales_are_those_of_the_reference() {
        let golden = Golden::open();
        let (weights, x) = (golden.floats("weights"), golden.floats("x"));
        let [rows, columns] = golden.shape("weights")[..] else {
            panic!("a matrix")
        };
        let statistics = statistics(&x, columns);
        for (case, bits, group_size, symmetric, activation_order) in [
            ("plain", 4, Some(32), false, false),
            ("symmetric", 3, Some(32), true, false),
            ("ordered", 4, Some(32), false, true),
            ("whole_rows", 2, None, false, true),
        ] {
            let config = GptqConfig {
                bits,
                group_size,
                symmetric,
                damping: 0.01,
                activation_order,
            };
            let inverse = InverseHessian::new(&statistics, &config).unwrap();
            let matrix = inverse.quantize(&weights, &config.integer()).unwrap();
            let at = |key: &str| format!("{case}.{key}");
            assert_eq!(matrix.codes, golden.bytes(&at("codes")), "{case}");
            assert_eq!(matrix.scales, golden.floats(&at("scales")), "{case}");
            assert_eq!(matrix.zeros, golden.bytes(&at("zeros")), "{case}");
            if activation_order {
                let groups: Vec<f32> = golden.floats(&at("group_of_column"));
                let found = matrix.group_of_column.as_ref().unwrap();
                assert!(found.iter().zip(&groups).all(|(a, b)| *a as f32 == *b));
            }
            let nearest =
                IntegerMatrix::round_to_nearest(&weights, [rows, columns], &config.integer());
            let nearest = nearest.unwrap().dequantize();
            let error = output_error(&weights, &matrix.dequantize(), &x, columns);
            let plain = output_error(&weights, &nearest, &x, columns);
            println!("{case}: {error:.4} against {plain:.4} rounded to nearest");
            assert!(error < 0.7 * plain, "{case}: {error} {plain}");
        }
    }

    #[test]
    fn a_hessian_of_nothing_has_no_inverse_unless_it_is_damped() {
        let x = [1.0, 1.0, 0.0, 2.0, 2.0, 0.0];
        let statistics = statistics(&x, 3);
        let config = |damping| GptqConfig {
            bits: 4,
            group_size: None,
            symmetric: false,
            damping,
            activation_order: false,
        };
        assert!(InverseHessian::new(&statistics, &config(0.0)).is_none());
        assert!(InverseHessian::new(&statistics, &config(f64::NAN)).is_none());
        let inverse = InverseHessian::new(&statistics, &config(0.01)).unwrap();
        let matrix = inverse.quantize(&[1.0, -1.0, 5.0], &config(0.01).integer());
        // The last column reads nothing: it becomes 0 and has no part in the scale.
        assert_eq!(matrix.unwrap().dequantize()[2], 0.0);
    }
}
