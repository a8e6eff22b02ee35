//! Fake quantisation on a decoder: which of its matrices compute with which grid.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device};

use crate::block::Block;
use crate::decoder::Decoder;
use crate::linear::fake_quant::{FakeQuant, FakeQuantError, Grid};
use crate::linear::{
    ActivationQuantization, ActivationScheme, Codes, Linear, Packed, QuantizedLinear, Weight,
};
use crate::quant::block_type::GgmlType;
use crate::quant::blocks::{BlockError, dequantize};
use crate::quant::integer::IntegerConfig;
use crate::quant::quantise::quantize_rows;
use crate::weights::gguf_types::plan_tensors;

/// What a model is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizationTarget {
    /// A GGUF file of this type: each matrix has the type that the file gives it, the head's and the fall-back of
    /// rows that are not whole blocks among them.
    Gguf(GgmlType),
    /// The linear layers of the blocks with weights of 4 bits in symmetric groups, and each token's activations in 8 bits
    /// with a zero point: torchao's 8da4w. Embedding and head stay as they are.
    Int8ActivationsInt4Weights { group_size: usize },
}

impl QuantizationTarget {
    /// The grid of every matrix that has one, by name.
    fn grids(self, decoder: &Decoder) -> BTreeMap<String, Grid> {
        match self {
            Self::Gguf(kind) => {
                let tensors = plan_tensors(&decoder.config, kind).into_iter();
                let matrices = tensors.filter(|tensor| tensor.shape.len() == 2);
                matrices.map(|t| (t.name, Grid::Blocks(t.kind))).collect()
            }
            Self::Int8ActivationsInt4Weights { group_size } => {
                let grid = Grid::Integers(IntegerConfig {
                    bits: 4,
                    group_size: Some(group_size),
                    symmetric: true,
                });
                let linears = decoder.linears();
                linears
                    .map(|linear| (linear.weight.name().to_owned(), grid))
                    .collect()
            }
        }
    }
}

impl Decoder {
    /// Whether every matrix can be held as `target` wants it.
    ///
    /// # Errors
    /// [`FakeQuantError`], which names the first that cannot.
    pub fn check_fake_quantization(
        &self,
        target: QuantizationTarget,
    ) -> Result<(), FakeQuantError> {
        let grids = target.grids(self);
        let weights = self.linears().map(|linear| &linear.weight);
        for weight in weights.chain([&self.embed_tokens]).chain(&self.lm_head) {
            let (Some(Grid::Integers(config)), columns) =
                (grids.get(weight.name()), weight.columns())
            else {
                continue;
            };
            if config.group_columns(columns).is_err() {
                return Err(FakeQuantError::PartialGroup {
                    name: weight.name().to_owned(),
                    columns,
                    group_size: config.group_size.unwrap_or(columns),
                });
            }
        }
        Ok(())
    }

    /// From here on the trained matrices compute with rounded values. One that does already is left as it is.
    ///
    /// # Errors
    /// When a matrix has a value that its grid does not reach, or rows that it does not divide.
    pub fn fake_quantize(&mut self, target: QuantizationTarget) -> Result<(), FakeQuantError> {
        let (grids, compute) = (target.grids(self), self.compute);
        for weight in self.weights_mut() {
            let (Some(&grid), Weight::Dense(master)) = (grids.get(weight.name()), &mut *weight)
            else {
                continue;
            };
            let fake = FakeQuant::new(master.clone(), grid, compute)?;
            *weight = Weight::FakeQuant(Box::new(fake));
        }
        if let QuantizationTarget::Int8ActivationsInt4Weights { .. } = target {
            let per_token = ActivationQuantization::per_token(ActivationScheme::ZeroPoint);
            self.linears_mut()
                .for_each(|linear| linear.activations = Some(per_token.clone()));
        }
        Ok(())
    }

    /// Rounds all values anew, after training has changed them. Nothing without fake quantisation.
    ///
    /// # Errors
    /// When a value is beyond its grid.
    pub fn refresh_fake_quantization(&mut self) -> Result<(), FakeQuantError> {
        for weight in self.weights_mut() {
            if let Weight::FakeQuant(fake) = weight {
                fake.refresh()?;
            }
        }
        Ok(())
    }

    /// The linear layers that compute with fake-quantised integers, by module: what their codes will be.
    pub fn integer_layers(&self) -> BTreeMap<String, QuantizedLinear> {
        let layer = |linear: &Linear| {
            let Weight::FakeQuant(fake) = &linear.weight else {
                return None;
            };
            let codes = Codes::Integer(fake.integers()?);
            let layer = QuantizedLinear::new(codes, linear.activations.clone());
            Some((linear.module().to_owned(), layer))
        };
        self.linears().filter_map(layer).collect()
    }

    /// Rounds every matrix to what a GGUF file of type `kind` gives back. On the CPU they stay in the file's blocks.
    ///
    /// # Errors
    /// When a value is beyond its type.
    pub fn round_to_gguf(&mut self, kind: GgmlType) -> Result<(), FakeQuantError> {
        let grids = QuantizationTarget::Gguf(kind).grids(self);
        let packs = self.device() == Device::flex() && self.compute == DType::F32;
        for weight in self.weights_mut() {
            let Some(Grid::Blocks(kind)) = grids.get(weight.name()).copied() else {
                continue;
            };
            let (name, shape) = (weight.name().to_owned(), [weight.rows(), weight.columns()]);
            let mut values = weight.values();
            let mut round = || -> Result<Option<Packed>, BlockError> {
                let bytes = quantize_rows(kind, &values, shape[1])?;
                if packs {
                    return Packed::new(&name, shape, kind, bytes).map(Some);
                }
                dequantize(kind, &bytes, shape[1], &mut values).map(|()| None)
            };
            let packed = round().map_err(|source| FakeQuantError::Blocks {
                name: name.clone(),
                source,
            })?;
            *weight = match packed {
                Some(packed) => Weight::Packed(packed),
                None => weight.replaced(values, shape[1]),
            };
        }
        Ok(())
    }

    fn weights_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        let linears = self.blocks.iter_mut().flat_map(Block::linears_mut);
        std::iter::once(&mut self.embed_tokens)
            .chain(linears.map(|linear| &mut linear.weight))
            .chain(&mut self.lm_head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Placement;
    use crate::config::{Architecture, DecoderConfig};
    use crate::load::random_decoder;
    use crate::quant::quantise::round_trip;
    use crate::weights::test_files::tiny_config;

    fn config(tied: bool) -> DecoderConfig {
        let mut config = tiny_config(Architecture::Llama);
        (config.hidden_size, config.intermediate_size) = (64, 80);
        config.tie_word_embeddings = tied;
        config
    }

    #[test]
    fn each_matrix_computes_with_what_the_file_will_hold() {
        for (kind, tied) in [
            (GgmlType::Q4_0, true),
            (GgmlType::Q4_0, false),
            (GgmlType::Q8_0, true),
        ] {
            let config = config(tied);
            let plain = random_decoder(&config, &Placement::cpu(), 3);
            let mut decoder = plain.clone();
            decoder
                .fake_quantize(QuantizationTarget::Gguf(kind))
                .unwrap();
            let plan = plan_tensors(&config, kind);
            for (array, original) in decoder.arrays().zip(plain.arrays()) {
                let tensor = plan.iter().find(|t| t.name == array.name()).unwrap();
                let mut values = original.values();
                let row = *tensor.shape.last().unwrap();
                round_trip(tensor.kind, &mut values, row).unwrap();
                assert_eq!(array.values(), values, "{}", tensor.name);
                // 80 columns are not whole blocks.
                let falls_back = tensor.name.ends_with("down_proj.weight");
                assert_eq!(tensor.kind == GgmlType::F16, falls_back, "{}", tensor.name);
            }
            let mut stored = plain.clone();
            stored.round_to_gguf(kind).unwrap();
            assert!((stored.arrays().zip(decoder.arrays())).all(|(a, b)| a.values() == b.values()));
            let masters = decoder.parameters().map(|p| (p.name.clone(), p.values()));
            assert!(masters.eq(plain.parameters().map(|p| (p.name.clone(), p.values()))));
        }
    }

    #[test]
    fn a_group_that_does_not_divide_a_row_is_found_before_anything_changes() {
        let mut decoder = random_decoder(&config(true), &Placement::cpu(), 3);
        let target = |group_size| QuantizationTarget::Int8ActivationsInt4Weights { group_size };
        let error = decoder.check_fake_quantization(target(32)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("model.layers.0.mlp.down_proj.weight: a row of 80 values"),
            "{error}"
        );
        decoder.check_fake_quantization(target(16)).unwrap();
        decoder.fake_quantize(target(16)).unwrap();
        assert!(
            decoder.linears().all(|linear| linear.activations.is_some()
                && matches!(linear.weight, Weight::FakeQuant(_)))
        );
        assert!(matches!(decoder.embed_tokens, Weight::Dense(_)));
        let layers = decoder.integer_layers();
        assert_eq!(layers.len(), decoder.linears().count());
        for linear in decoder.linears() {
            let layer = &layers[linear.module()];
            assert_eq!(layer.values(), linear.weight.values());
            assert_eq!(layer.activations, linear.activations);
        }
    }
}
