//! AWQ (arXiv 2306.00978): columns that read large inputs are scaled up before rounding, so that their error shrinks. The
//! inverse goes into what stands before the layer; so nothing but weights changes.

use burn::tensor::{DType, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, InputStatistics};
use super::integer::{IntegerConfig, IntegerError, IntegerMatrix};
use super::layers::{QuantizeError, QuantizedLayers, check_groups, round_linear};
use crate::batch::TokenBatch;
use crate::block::{Block, LinearInput};
use crate::decoder::Decoder;
use crate::linear::Linear;
use crate::ops::product::product;
use crate::parameter::Parameter;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwqConfig {
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
    /// By what the columns are scaled before they are rounded.
    #[serde(default)]
    pub scaling: Scaling,
}

/// By what the columns are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Scaling {
    /// mean|x|ᵃ, with a from 0 in `grid` steps below 1: the one with the least error of the outputs.
    Search {
        /// Steps of the exponent, 1 to 1000.
        #[schemars(range(min = 1, max = 1000))]
        grid: usize,
    },
    /// `scale` for the `share` of columns whose mean|x| is largest, 1 for the others.
    Salient {
        /// Share of the columns that are scaled, between 0 and 1, such as 0.01.
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
        share: f64,
        /// What they are multiplied by, 0.001 to 1000.
        #[schemars(range(min = 0.001, max = 1000))]
        scale: f32,
    },
}

impl Default for Scaling {
    fn default() -> Self {
        Self::Search { grid: 20 }
    }
}

impl AwqConfig {
    pub fn integer(&self) -> IntegerConfig {
        IntegerConfig {
            bits: self.bits,
            group_size: self.group_size,
            symmetric: self.symmetric,
        }
    }
}

/// Quantises the linear layers of every block, block after block: the inputs of each come from the quantised blocks
/// before it. The inputs of `o_proj` are scaled only where each query head has a value head of its own.
/// `progress` hears the number of blocks done.
///
/// # Errors
/// Before anything changes: rows that are no whole groups, no token. Later: weights that are not finite.
pub fn quantize(
    decoder: &mut Decoder,
    batches: &[TokenBatch],
    config: &AwqConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<QuantizedLayers, QuantizeError> {
    let integer = config.integer();
    check_groups(decoder, &integer)?;
    let mut calibration = Calibration::new(decoder, batches)?;
    let mut layers = Vec::new();
    for layer in 0..decoder.blocks.len() {
        let statistics = calibration.statistics(decoder, layer);
        let block = &mut decoder.blocks[layer];
        // All are found before any is folded: what one input is divided by multiplies rows of a layer before.
        let found = LinearInput::ALL.into_iter().zip(&statistics);
        let found = found.filter(|(input, _)| can_fold(block, *input));
        let found = found.map(|(input, statistics)| {
            let scales = match config.scaling {
                Scaling::Search { grid } => {
                    search(&input.readers(block), statistics, grid, &integer)?
                }
                Scaling::Salient { share, scale } => salient(statistics, share, scale),
            };
            Ok((input, scales))
        });
        let found: Vec<(LinearInput, Vec<f32>)> = found.collect::<Result<_, QuantizeError>>()?;
        for (input, scales) in found {
            fold(block, input, &scales);
        }
        for linear in block.linears_mut() {
            let matrix = round_linear(linear, &integer)?;
            layers.push((linear.module().to_owned(), matrix));
        }
        if layer + 1 < decoder.blocks.len() {
            calibration.advance(decoder, layer);
        }
        progress(layer + 1);
    }
    Ok(layers)
}

/// The scales s = mean|x|ᵃ / √(max · min) with the least error of what all `readers` give.
fn search(
    readers: &[&Linear],
    statistics: &InputStatistics,
    grid: usize,
    config: &IntegerConfig,
) -> Result<Vec<f32>, QuantizeError> {
    let matrices: Vec<Vec<f32>> = readers
        .iter()
        .map(|linear| linear.weight.values())
        .collect();
    let mut best = (f64::INFINITY, vec![1.0; statistics.magnitudes.len()]);
    for step in 0..grid {
        let scales = powers(statistics, step as f32 / grid as f32);
        let mut error = 0.0;
        for (linear, values) in readers.iter().zip(&matrices) {
            error += output_error(values, &scales, statistics, config)
                .map_err(QuantizeError::matrix(linear))?;
        }
        if error < best.0 {
            best = (error, scales);
        }
    }
    Ok(best.1)
}

/// mean|x|ᵃ, scaled so that the largest is the inverse of the least.
fn powers(statistics: &InputStatistics, a: f32) -> Vec<f32> {
    let mean = |sum: &f32| sum / statistics.tokens as f32;
    let power = |sum: &f32| mean(sum).powf(a).max(1e-4);
    let powers: Vec<f32> = statistics.magnitudes.iter().map(power).collect();
    let least = powers.iter().copied().fold(f32::INFINITY, f32::min);
    let most = powers.iter().copied().fold(0.0, f32::max);
    let middle = (least * most).sqrt();
    powers.into_iter().map(|power| power / middle).collect()
}

fn salient(statistics: &InputStatistics, share: f64, scale: f32) -> Vec<f32> {
    let magnitudes = &statistics.magnitudes;
    let count = (share * magnitudes.len() as f64).round().max(1.0) as usize;
    let mut order: Vec<usize> = (0..magnitudes.len()).collect();
    order.sort_by(|&a, &b| magnitudes[b].total_cmp(&magnitudes[a]).then(a.cmp(&b)));
    let mut scales = vec![1.0; magnitudes.len()];
    for &column in order.iter().take(count) {
        scales[column] = scale;
    }
    scales
}

/// ‖(Q(W·s)/s − W)·X‖² over the calibration text. With Σ x·xᵀ at hand the text is not needed again.
fn output_error(
    values: &[f32],
    scales: &[f32],
    statistics: &InputStatistics,
    config: &IntegerConfig,
) -> Result<f64, IntegerError> {
    let columns = scales.len();
    let rows = values.len() / columns;
    let scaled: Vec<f32> = (values.par_chunks(columns))
        .flat_map_iter(|row| row.iter().zip(scales).map(|(value, scale)| value * scale))
        .collect();
    let matrix = IntegerMatrix::round_to_nearest(&scaled, [rows, columns], config)?;
    let mut difference = matrix.dequantize();
    (difference.par_chunks_mut(columns))
        .zip(values.par_chunks(columns))
        .for_each(|(difference, values)| {
            for ((difference, value), scale) in difference.iter_mut().zip(values).zip(scales) {
                *difference = *difference / scale - value;
            }
        });
    let mut image = scaled;
    // Safety: the three arrays are as long as the shapes say, and different ones.
    unsafe {
        product::<f32>(
            (rows, columns, columns),
            (image.as_mut_ptr(), columns),
            (difference.as_ptr(), columns, 1),
            (statistics.products.as_ptr(), columns, 1),
            false,
            Parallelism::Rayon(0),
        );
    }
    // Row sums in the order of the rows: the same bits on every run.
    let errors: Vec<f64> = (image.par_chunks(columns))
        .zip(difference.par_chunks(columns))
        .map(|(image, difference)| {
            let terms = image.iter().zip(difference);
            terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        })
        .collect();
    Ok(errors.iter().sum())
}

/// Whether what stands before this input can take up its scales.
fn can_fold(block: &Block, input: LinearInput) -> bool {
    let attention = &block.self_attn;
    input != LinearInput::Output
        || attention.v_proj.weight.rows() == attention.o_proj.weight.columns()
}

/// Multiplies the columns that read `input` by `scales`, and divides by them what makes it.
fn fold(block: &mut Block, input: LinearInput, scales: &[f32]) {
    match input {
        LinearInput::QueryKeyValue => divide(&mut block.input_layernorm, scales),
        LinearInput::Output => divide_rows(&mut block.self_attn.v_proj, scales),
        LinearInput::GateUp => divide(&mut block.post_attention_layernorm, scales),
        LinearInput::Down => divide_rows(&mut block.mlp.up_proj, scales),
    }
    for linear in input.readers_mut(block) {
        let mut values = linear.weight.values();
        values.par_chunks_mut(scales.len()).for_each(|row| {
            for (value, scale) in row.iter_mut().zip(scales) {
                *value *= scale;
            }
        });
        linear.weight = linear.weight.replaced(values, scales.len());
    }
}

fn divide(vector: &mut Parameter, scales: &[f32]) {
    let value = &vector.value;
    let scales = Tensor::<1>::from_data(scales, (&value.device(), DType::F32));
    let quotient = value.clone().cast(DType::F32) / scales.unsqueeze();
    vector.value = quotient.cast(value.dtype());
}

fn divide_rows(linear: &mut Linear, scales: &[f32]) {
    let columns = linear.weight.columns();
    let mut values = linear.weight.values();
    for (row, scale) in values.chunks_mut(columns).zip(scales) {
        row.iter_mut().for_each(|value| *value /= scale);
    }
    linear.weight = linear.weight.replaced(values, columns);
    if let Some(bias) = &mut linear.bias {
        divide(bias, scales);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Placement;
    use crate::config::Architecture;
    use crate::load::random_decoder;
    use crate::random::normal_values;
    use crate::weights::test_files::tiny_config;

    const CONFIG: IntegerConfig = IntegerConfig {
        bits: 3,
        group_size: Some(32),
        symmetric: false,
    };

    /// Biases are not 0, as a fresh decoder's are.
    fn decoder(architecture: Architecture, kv_heads: usize) -> Decoder {
        let mut config = tiny_config(architecture);
        (config.num_key_value_heads, config.mlp_bias) = (kv_heads, true);
        let mut decoder = random_decoder(&config, &Placement::cpu(), 3);
        for parameter in decoder.parameters_mut() {
            if parameter.is_vector() {
                let count = parameter.elements();
                let values = normal_values(count, 8, &parameter.name, 0.5);
                let values = Tensor::<1>::from_floats(values.as_slice(), &parameter.value.device());
                parameter.value = values.add_scalar(1.0).unsqueeze();
            } else {
                parameter.value = parameter.value.clone().mul_scalar(8.0);
            }
        }
        decoder
    }

    fn text() -> TokenBatch {
        let ids: Vec<u32> = (0..40).map(|at| (at * at + 3 * at) % 8).collect();
        TokenBatch::single(&ids)
    }

    fn logits(decoder: &Decoder) -> Vec<f32> {
        let logits = decoder.logits(&decoder.hidden(&text()));
        logits.into_data().try_to_vec().unwrap()
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    }

    #[test]
    fn folding_changes_no_logit() {
        for (architecture, kv_heads) in [
            (Architecture::Llama, 1),
            (Architecture::Qwen2, 2),
            (Architecture::Qwen3, 2),
        ] {
            let mut decoder = decoder(architecture, kv_heads);
            let before = logits(&decoder);
            let size = before
                .iter()
                .fold(0.0, |most: f32, value| value.abs().max(most));
            let mut folded = 0;
            for block in &mut decoder.blocks {
                for input in LinearInput::ALL {
                    if can_fold(block, input) {
                        let columns = input.readers(block)[0].weight.columns();
                        let scales = normal_values(columns, 9, "scales", 1.0);
                        let scales: Vec<f32> = scales.iter().map(|value| value.exp()).collect();
                        fold(block, input, &scales);
                        folded += 1;
                    }
                }
            }
            assert_eq!(folded, if kv_heads == 2 { 8 } else { 6 });
            let difference = distance(&logits(&decoder), &before);
            println!("{architecture:?}: {difference:e} of {size}");
            assert!(difference < 2e-5 * size, "{difference:e} of {size}");
        }
    }

    #[test]
    fn the_error_is_that_of_the_outputs_and_the_search_finds_the_least() {
        let decoder = decoder(Architecture::Qwen2, 2);
        let calibration = Calibration::new(&decoder, &[text()]).unwrap();
        let statistics = calibration.statistics(&decoder, 1);
        let linear = &decoder.blocks[1].mlp.gate_proj;
        let values = linear.weight.values();
        let scales = powers(&statistics[2], 0.5);
        assert!(
            (scales.iter().copied().fold(0.0, f32::max)
                * scales.iter().copied().fold(f32::MAX, f32::min)
                - 1.0)
                .abs()
                < 1e-5
        );
        let found = output_error(&values, &scales, &statistics[2], &CONFIG).unwrap();
        let scaled: Vec<f32> = (values.chunks(32))
            .flat_map(|row| row.iter().zip(&scales).map(|(a, b)| a * b))
            .collect();
        let rounded = IntegerMatrix::round_to_nearest(&scaled, [64, 32], &CONFIG).unwrap();
        let rounded = rounded.dequantize();
        let mut expected = 0.0;
        calibration.observe(&decoder, 1, &mut |input, x| {
            if input == LinearInput::GateUp {
                let x: Vec<f32> = x.clone().into_data().try_to_vec().unwrap();
                for (x, row) in x.chunks(32).flat_map(|x| (0..64).map(move |row| (x, row))) {
                    let at = |column: usize| {
                        let place = row * 32 + column;
                        let difference = rounded[place] / scales[column] - values[place];
                        f64::from(x[column] * difference)
                    };
                    expected += (0..32).map(at).sum::<f64>().powi(2);
                }
            }
        });
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
        let best = search(&[linear], &statistics[2], 20, &CONFIG).unwrap();
        let least = output_error(&values, &best, &statistics[2], &CONFIG).unwrap();
        for step in 0..20 {
            let scales = powers(&statistics[2], step as f32 / 20.0);
            assert!(least <= output_error(&values, &scales, &statistics[2], &CONFIG).unwrap());
        }
    }

    #[test]
    fn salient_columns_are_those_with_the_largest_inputs() {
        let statistics = InputStatistics {
            tokens: 1,
            products: Vec::new(),
            magnitudes: vec![0.5, 3.0, 0.1, 2.0],
        };
        assert_eq!(salient(&statistics, 0.5, 4.0), [1.0, 4.0, 1.0, 4.0]);
        assert_eq!(salient(&statistics, 0.01, 2.0), [1.0, 2.0, 1.0, 1.0]);
    }

    /// The integers stand for the values that the decoder computes with, whatever the method.
    #[test]
    fn a_quantised_decoder_computes_with_its_integers() {
        type Method = fn(&mut Decoder) -> Result<QuantizedLayers, QuantizeError>;
        let methods: [Method; 3] = [
            |decoder| super::super::layers::round_to_nearest(decoder, &CONFIG, &mut |_| {}),
            |decoder| {
                let config = serde_json::json!({ "bits": 3, "group_size": 32 });
                let config = serde_json::from_value(config).unwrap();
                quantize(decoder, &[text()], &config, &mut |_| {})
            },
            |decoder| {
                let config = serde_json::json!({
                    "bits": 3, "group_size": 32, "damping": 0.05, "activation_order": true,
                });
                let config = serde_json::from_value(config).unwrap();
                super::super::gptq::quantize(decoder, &[text()], &config, &mut |_| {})
            },
        ];
        let original = decoder(Architecture::Qwen2, 2);
        let expected = logits(&original);
        let mut differences = Vec::new();
        for method in methods {
            let mut decoder = original.clone();
            let layers = method(&mut decoder).unwrap();
            assert_eq!(layers.len(), 14);
            for ((module, matrix), linear) in layers.iter().zip(decoder.linears()) {
                assert_eq!(module, linear.module());
                assert_eq!(matrix.dequantize(), linear.weight.values());
            }
            let found = logits(&decoder);
            let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2));
            differences.push(difference.sum::<f32>());
        }
        println!("squared difference of logits: {differences:?}");
        let mut partial = original;
        let config = serde_json::json!({ "bits": 3, "group_size": 48 });
        let config = serde_json::from_value(config).unwrap();
        let error = quantize(&mut partial, &[text()], &config, &mut |_| {}).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("layers.0.self_attn.q_proj.weight"),
            "{error}"
        );
        assert!(
            error.to_string().contains("whole number of groups"),
            "{error}"
        );
    }
}
