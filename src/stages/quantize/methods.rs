//! The methods at work on a decoder's linear layers.

use anyhow::{Context, Result};
use model::batch::TokenBatch;
use model::block::LinearInput;
use model::decoder::Decoder;
use model::linear::quantized::absmax_int8;
use model::linear::{ActivationQuantization, ActivationScheme, Codes, Linear, QuantizedLinear};
use model::phase;
use model::quant::extremes::{InputExtremes, input_extremes};
use model::quant::integer::{IntegerConfig, IntegerError, IntegerMatrix};
use model::quant::layers::{QuantizeError, QuantizedLayers, round_to_nearest};
use model::quant::nf4::Nf4;
use model::quant::{awq, gptq};

use crate::progress::Progress;
use crate::recipe::{Activations, QuantizeMethod};
use crate::stages::models::Layers;

/// Lets every linear layer compute with codes.
pub fn quantize(
    decoder: &mut Decoder,
    method: &QuantizeMethod,
    batches: &[TokenBatch],
    progress: &mut Progress,
) -> Result<Layers> {
    let _phase = phase!("quantise");
    let blocks = decoder.blocks.len();
    let observe = |decoder: &Decoder, progress: &mut Progress| {
        let bar = progress.quantizing("calibration batches", batches.len());
        let found = input_extremes(decoder, batches, &mut |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        found
    };
    let extremes = match method {
        QuantizeMethod::Gptq(_) | QuantizeMethod::Awq(_) => Vec::new(),
        _ if batches.is_empty() => Vec::new(),
        _ => observe(decoder, progress),
    };
    let bar = progress.quantizing("quantised blocks", blocks);
    let mut hear = |done: usize| bar.set_position(done as u64);
    let layers = match method {
        QuantizeMethod::RoundToNearest(config) => {
            of_integers(round_to_nearest(decoder, config, &mut hear)?)
        }
        QuantizeMethod::Gptq(config) => {
            of_integers(gptq::quantize(decoder, batches, config, &mut hear)?)
        }
        QuantizeMethod::Awq(config) => {
            of_integers(awq::quantize(decoder, batches, config, &mut hear)?)
        }
        QuantizeMethod::AbsmaxInt8(int8) => {
            let scheme = ActivationScheme::Absmax;
            each(decoder, &extremes, &mut hear, |linear, seen| {
                let codes = absmax_int8(&linear.weight.values(), shape(linear));
                let codes = codes.map_err(not_integers(linear))?;
                let activations = activations(scheme, int8.activations, seen);
                Ok(QuantizedLinear::new(Codes::Integer(codes), activations))
            })?
        }
        QuantizeMethod::ZeroPointInt8(int8) => {
            let scheme = ActivationScheme::ZeroPoint;
            let config = IntegerConfig {
                bits: 8,
                group_size: None,
                symmetric: false,
            };
            each(decoder, &extremes, &mut hear, |linear, seen| {
                let (values, shape) = (linear.weight.values(), shape(linear));
                let codes = IntegerMatrix::round_to_nearest(&values, shape, &config);
                let codes = codes.map_err(not_integers(linear))?;
                let activations = activations(scheme, int8.activations, seen);
                Ok(QuantizedLinear::new(Codes::Integer(codes), activations))
            })?
        }
        QuantizeMethod::LlmInt8(config) => each(decoder, &extremes, &mut hear, |linear, seen| {
            let threshold = config.threshold as f32;
            let outliers = seen.map_or_else(Vec::new, |seen| seen.columns_above(threshold));
            let layer = QuantizedLinear::llm_int8(linear.weight.values(), shape(linear), outliers);
            Ok(layer.map_err(not_integers(linear))?)
        })?,
        QuantizeMethod::Ggml(blocks) => {
            decoder.round_to_gguf(blocks.kind)?;
            Layers::new()
        }
        QuantizeMethod::Nf4 => each(decoder, &extremes, &mut hear, |linear, _| {
            let codes = Nf4::quantize(&linear.weight.values(), linear.weight.columns());
            let codes = codes.with_context(|| format!("tensor `{}`", linear.weight.name()))?;
            Ok(QuantizedLinear::new(Codes::Nf4(codes), None))
        })?,
    };
    bar.finish_and_clear();
    Ok(layers)
}

/// Quantises layer after layer, given what calibration has seen of its inputs.
fn each(
    decoder: &mut Decoder,
    extremes: &[[InputExtremes; 4]],
    hear: &mut dyn FnMut(usize),
    quantize: impl Fn(&Linear, Option<&InputExtremes>) -> Result<QuantizedLinear>,
) -> Result<Layers> {
    let mut layers = Layers::new();
    for (number, block) in decoder.blocks.iter_mut().enumerate() {
        for input in LinearInput::ALL {
            let seen = extremes.get(number).map(|block| &block[input as usize]);
            for linear in input.readers_mut(block) {
                let layer = quantize(linear, seen)?;
                layer.put_into(linear);
                layers.insert(linear.module().to_owned(), layer);
            }
        }
        hear(number + 1);
    }
    Ok(layers)
}

fn of_integers(layers: QuantizedLayers) -> Layers {
    let layer = |codes| QuantizedLinear::new(Codes::Integer(codes), None);
    (layers.into_iter())
        .map(|(module, codes)| (module, layer(codes)))
        .collect()
}

fn activations(
    scheme: ActivationScheme,
    wanted: Activations,
    seen: Option<&InputExtremes>,
) -> Option<ActivationQuantization> {
    let range = match wanted {
        Activations::None => return None,
        Activations::Dynamic => None,
        Activations::Static => seen.map(InputExtremes::range),
    };
    Some(ActivationQuantization {
        range,
        ..ActivationQuantization::per_token(scheme)
    })
}

fn shape(linear: &Linear) -> [usize; 2] {
    [linear.weight.rows(), linear.weight.columns()]
}

fn not_integers(linear: &Linear) -> impl FnOnce(IntegerError) -> QuantizeError + use<> {
    let tensor = linear.weight.name().to_owned();
    |source| QuantizeError::Matrix { tensor, source }
}
