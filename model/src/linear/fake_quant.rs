//! A matrix that is trained for a coarser grid: it computes with its values as that grid gives them back, and the
//! gradients change its own, in `f32`, as if nothing had been rounded (the straight-through estimator, arXiv 1308.3432).

use burn::tensor::{DType, Tensor};
use thiserror::Error;

use super::packed::Packed;
use super::weight::Weight;
use crate::ops::block_rounding::{round_to_blocks, round_to_integers};
use crate::ops::host::{HostTensor, from_values};
use crate::parameter::Parameter;
use crate::quant::block_type::GgmlType;
use crate::quant::blocks::BlockError;
use crate::quant::integer::{IntegerConfig, IntegerError, IntegerMatrix};
use crate::quant::quantise::quantize_rows;

/// What values are rounded to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Grid {
    /// GGUF's blocks.
    Blocks(GgmlType),
    /// Codes in groups along the rows.
    Integers(IntegerConfig),
}

#[derive(Debug, Error, PartialEq)]
pub enum FakeQuantError {
    #[error("{name}: {source}")]
    Blocks { name: String, source: BlockError },
    #[error("{name}: {source}")]
    Integers { name: String, source: IntegerError },
    #[error(
        "{name}: a row of {columns} values is not a whole number of groups of {group_size}\n\
         hint: `group_size` has to divide {columns}"
    )]
    PartialGroup {
        name: String,
        columns: usize,
        group_size: usize,
    },
    #[error("{name}: no device but the CPU rounds to {kind}", kind = kind.name())]
    OnCpuOnly { name: String, kind: GgmlType },
}

/// A matrix `[rows, columns]` with its own values and the rounded ones. Whoever changes its own calls
/// [`FakeQuant::refresh`]: they change once a step, and each of its microbatches reads the rounded ones several times.
#[derive(Debug, Clone)]
pub struct FakeQuant {
    pub master: Parameter,
    grid: Grid,
    /// The dtype of activations.
    compute: DType,
    /// GGUF's blocks on the CPU, a seventh of a dense copy for Q4_0: products unpack a panel at a time, which is one
    /// operation a value beside two for each of some hundred tokens. Otherwise in the dtype of activations.
    rounded: Weight,
}

impl FakeQuant {
    /// # Errors
    /// When a row is not whole blocks or groups of the grid, or a value is beyond it.
    pub fn new(master: Parameter, grid: Grid, compute: DType) -> Result<Self, FakeQuantError> {
        let rounded = round(&master, grid, compute)?;
        Ok(Self {
            master,
            grid,
            compute,
            rounded,
        })
    }

    /// Rounds its values anew.
    ///
    /// # Errors
    /// When a value is beyond the grid.
    pub fn refresh(&mut self) -> Result<(), FakeQuantError> {
        self.rounded = round(&self.master, self.grid, self.compute)?;
        Ok(())
    }

    /// The codes of the rounded values; `None` where the grid has none of integers.
    pub fn integers(&self) -> Option<IntegerMatrix> {
        let Grid::Integers(config) = self.grid else {
            return None;
        };
        let shape = self.master.value.dims();
        IntegerMatrix::round_to_nearest(&self.master.values(), shape, &config).ok()
    }

    /// The rounded values as a matrix that is only read.
    pub fn rounded(&self) -> &Weight {
        &self.rounded
    }

    /// The rounded values in `f32`, row after row, whatever activations are computed in.
    pub fn values(&self) -> Vec<f32> {
        let rounded = round(&self.master, self.grid, DType::F32);
        rounded.expect("rounded when they last changed").values()
    }
}

fn round(master: &Parameter, grid: Grid, compute: DType) -> Result<Weight, FakeQuantError> {
    let shape = master.value.dims();
    let name = || master.name.clone();
    let in_blocks = |source| FakeQuantError::Blocks {
        name: name(),
        source,
    };
    let in_integers = |source| FakeQuantError::Integers {
        name: name(),
        source,
    };
    let dense = |value: Tensor<2>| {
        let mut frozen = Parameter::new(&master.name, master.shape.clone(), value);
        frozen.trainable = false;
        Weight::Dense(frozen)
    };
    let is_plain = [master.value.dtype(), compute] == [DType::F32; 2];
    let host = HostTensor::of(&master.value).filter(|_| is_plain);
    Ok(match (grid, host) {
        (Grid::Blocks(kind), Some(host)) => {
            let bytes = quantize_rows(kind, host.slice(), shape[1]).map_err(in_blocks)?;
            Weight::Packed(Packed::new(name(), shape, kind, bytes).map_err(in_blocks)?)
        }
        (Grid::Blocks(kind), None) => {
            if kind.bytes_of(shape[1]).is_none() {
                let row = shape[1];
                return Err(in_blocks(BlockError::PartialBlock { kind, row }));
            }
            let rounded = round_to_blocks(kind, &master.value);
            let rounded =
                rounded.ok_or_else(|| FakeQuantError::OnCpuOnly { name: name(), kind })?;
            dense(rounded.cast(compute))
        }
        (Grid::Integers(config), Some(host)) => {
            let matrix = IntegerMatrix::round_to_nearest(host.slice(), shape, &config);
            let matrix = matrix.map_err(in_integers)?;
            dense(from_values(matrix.dequantize(), shape))
        }
        (Grid::Integers(config), None) => {
            let group = config.group_columns(shape[1]).map_err(in_integers)?;
            let rounded = round_to_integers(&master.value, config.bits, group);
            dense(rounded.cast(compute))
        }
    })
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::linear::{ActivationQuantization, ActivationScheme, Linear};
    use crate::ops::check::{assert_close, random, values};

    /// See `tests/golden/make_fake_quant.py`.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/fake_quant.safetensors");

    fn golden(name: &str) -> Tensor<2> {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.data());
        from_values(values, [tensor.shape()[0], tensor.shape()[1]])
    }

    fn int4() -> Grid {
        Grid::Integers(IntegerConfig {
            bits: 4,
            group_size: Some(32),
            symmetric: true,
        })
    }

    fn cases() -> [(&'static str, Grid); 4] {
        [
            ("q4_0", Grid::Blocks(GgmlType::Q4_0)),
            ("q5_0", Grid::Blocks(GgmlType::Q5_0)),
            ("q8_0", Grid::Blocks(GgmlType::Q8_0)),
            ("8da4w", int4()),
        ]
    }

    fn linear(grid: Grid, compute: DType) -> Linear {
        let value = golden("weight").cast(compute);
        let master = Parameter::new("layer.weight", value.dims().to_vec(), value);
        let fake = FakeQuant::new(master, grid, compute).unwrap();
        let mut linear = Linear::new(Weight::FakeQuant(Box::new(fake)), None);
        if grid == int4() {
            let per_token = ActivationQuantization::per_token(ActivationScheme::ZeroPoint);
            linear.activations = Some(per_token);
        }
        linear
    }

    #[test]
    fn values_and_gradients_are_those_of_torch() {
        for (name, grid) in cases() {
            let made = |what: &str| golden(&format!("{name}.{what}"));
            for (compute, tolerance) in [(DType::F32, 2e-6), (DType::F64, 2e-6)] {
                let mut linear = linear(grid, compute);
                let rounded = linear.weight.values();
                let same = (rounded.iter().zip(values(&made("weight"))))
                    .all(|(found, expected)| f64::from(*found) == expected);
                assert!(same, "{name}");
                let (x, dy) = (golden("x").cast(compute), golden("dy").cast(compute));
                assert_close(&linear.forward(&x), &made("y"), tolerance);
                assert_close(&linear.backward(&dy, &x), &made("dx"), tolerance);
                let gradient = linear.weight.parameter().unwrap().gradient.clone();
                assert_close(&gradient.unwrap(), &made("dw"), tolerance);
            }
        }
    }

    #[test]
    fn gradients_are_those_of_a_plain_layer_of_the_rounded_values() {
        let (x, dy) = (golden("x"), golden("dy"));
        for (name, grid) in cases() {
            let mut fake = linear(grid, DType::F32);
            let rounded = from_values::<f32, 2>(fake.weight.values(), golden("weight").dims());
            let shape = rounded.dims().to_vec();
            let plain = Weight::Dense(Parameter::new("layer.weight", shape, rounded));
            let mut plain = Linear::new(plain, None);
            plain.activations = fake.activations.clone();
            assert_close(&fake.forward(&x), &plain.forward(&x), 1e-6);
            assert_close(&fake.backward(&dy, &x), &plain.backward(&dy, &x), 1e-6);
            let gradient = |linear: &Linear| linear.weight.parameter().unwrap().gradient.clone();
            let gradients = [gradient(&fake), gradient(&plain)].map(|g| values(&g.unwrap()));
            assert_eq!(gradients[0], gradients[1], "{name}");
        }
    }

    #[test]
    fn rounded_values_follow_the_master_when_they_are_refreshed() {
        for (_, grid) in cases() {
            let mut linear = linear(grid, DType::F32);
            let Weight::FakeQuant(fake) = &mut linear.weight else {
                panic!("it was made so");
            };
            assert!(fake.rounded().bytes() < fake.master.elements() * 4 || grid == int4());
            fake.master.value = golden("x");
            fake.refresh().unwrap();
            let fresh = FakeQuant::new(fake.master.clone(), grid, DType::F32).unwrap();
            assert!(fake.values() == fresh.values());
            let x = golden("x");
            assert!(values(&fake.rounded().forward(&x)) == values(&fresh.rounded().forward(&x)));
            fake.master.value = fake.master.value.clone() * f32::INFINITY;
            let error = fake.refresh().unwrap_err().to_string();
            assert!(error.starts_with("layer.weight: value 0 is"), "{error}");
        }
    }

    #[test]
    fn rows_that_a_grid_does_not_divide_are_named() {
        for dtype in [DType::F32, DType::F64] {
            let value = random([3, 48], 1).cast(dtype);
            let master = Parameter::new("odd.weight", vec![3, 48], value);
            for (_, grid) in cases() {
                let error = FakeQuant::new(master.clone(), grid, dtype).unwrap_err();
                let error = error.to_string();
                assert!(
                    error.starts_with("odd.weight: a row of 48 values"),
                    "{error}"
                );
            }
        }
    }
}
