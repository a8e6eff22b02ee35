//! Stage `quantize`: linear layers as codes, and what that costs.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use datasets::mask::SampleEncoder;
use evals::logit_comparison::LogitDifference;
use evals::model_comparison::compare_models;
use evals::perplexity::{PerplexityConfig, documents};
use model::batch::TokenBatch;
use model::block::LinearInput;
use model::decoder::Decoder;
use model::linear::quantized::absmax_int8;
use model::linear::{ActivationQuantization, ActivationScheme, Codes, Linear, QuantizedLinear};
use model::phase;
use model::quant::extremes::{InputExtremes, input_extremes};
use model::quant::integer::{IntegerConfig, IntegerMatrix};
use model::quant::layers::{QuantizeError, QuantizedLayers, round_to_nearest};
use model::quant::nf4::Nf4;
use model::quant::{awq, gptq};
use model::weights::gguf_types::plan_tensors;
use model::weights::names::is_linear;
use serde::{Deserialize, Serialize};

use super::corpus::calibration_windows;
use super::models::{Layers, OpenModel};
use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Activations, Calibration, Quantize, QuantizeMethod};

/// What the stage leaves beside the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizationScore {
    pub model: String,
    pub method: String,
    /// Of the linear layers, scales and zeros included.
    pub bits_per_weight: f64,
    pub bytes: u64,
    /// What quantising took, calibration included.
    pub seconds: f64,
    /// From the original to what it became.
    #[serde(flatten)]
    pub difference: LogitDifference,
}

impl Chain<'_> {
    pub fn quantize(
        &self,
        stage: &PlannedStage,
        config: &Quantize,
        progress: &mut Progress,
    ) -> Result<()> {
        let original = self.open_model(stage, "model")?;
        let window = PerplexityConfig {
            window: config.window,
            stride: None,
            limit: Some(config.heldout_tokens),
        };
        window.window_and_stride(original.decoder.config.max_position_embeddings)?;
        let heldout = documents(&original.tokenizer, &self.samples(stage, "heldout")?)?;
        let batches = match &config.calibration {
            Some(calibration) => self.calibration_batches(stage, &original, calibration)?,
            None => Vec::new(),
        };
        let mut decoder = original.decoder.clone();
        decoder.merge_adapters();
        (decoder.linears_mut()).for_each(|linear| linear.activations = None);

        let clock = Instant::now();
        let layers = quantize(&mut decoder, &config.method, &batches, progress)?;
        let seconds = clock.elapsed().as_secs_f64();
        drop(batches);

        let bar = progress.scoring("before and after");
        let difference = compare_models(
            &original.decoder,
            &decoder,
            &heldout,
            &window,
            &mut |done, total| {
                bar.update(|state| {
                    state.set_len(total);
                    state.set_pos(done);
                });
            },
        )?;
        bar.finish_and_clear();

        let [weights, bytes] = sizes(&decoder, &config.method, &layers);
        let name = stage.name.clone();
        let score = QuantizationScore {
            model: name.unwrap_or_else(|| format!("stage {}", stage.index + 1)),
            method: config.method.title(),
            bits_per_weight: 8.0 * bytes as f64 / weights.max(1) as f64,
            bytes: bytes as u64,
            seconds,
            difference,
        };
        let codes = (config.method.described()?, layers);
        let codes = (!codes.1.is_empty()).then_some(&codes);
        self.save_model(stage, &decoder, &original.tokenizer, codes)?;
        write_json(
            &stage.directory.join("scores.json"),
            &serde_json::to_value(score)?,
        )
    }

    fn calibration_batches(
        &self,
        stage: &PlannedStage,
        opened: &OpenModel,
        config: &Calibration,
    ) -> Result<Vec<TokenBatch>> {
        let encoder = SampleEncoder::new(&opened.tokenizer)?;
        let cache = self.tokens(stage, "calibration.data", &encoder)?;
        let (length, context) = (
            config.sequence_length,
            opened.decoder.config.max_position_embeddings,
        );
        if length > context {
            let key = self.key_of(stage, "calibration.sequence_length");
            anyhow::bail!("{key} is {length}, but the model sees {context} tokens at most");
        }
        calibration_windows(&cache, config.sequences, length, self.recipe.seed)
            .with_context(|| self.key_of(stage, "calibration"))
    }

    /// What a finished stage says of itself.
    ///
    /// # Errors
    /// When the file is missing or is none of this stage's.
    pub fn quantization_score(stage: &PlannedStage) -> Result<QuantizationScore> {
        let path = stage.directory.join("scores.json");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let score: QuantizationScore = serde_json::from_str(&text)
            .with_context(|| format!("{} is no score of a quantisation", path.display()))?;
        // Names are no part of a stage's digest: this recipe may call it otherwise.
        let model = stage.name.clone().unwrap_or_else(|| score.model.clone());
        Ok(QuantizationScore { model, ..score })
    }
}

/// Lets every linear layer compute with codes.
fn quantize(
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

/// Values and bytes of the linear layers.
fn sizes(decoder: &Decoder, method: &QuantizeMethod, layers: &Layers) -> [usize; 2] {
    let sizes: Vec<[usize; 2]> = match method {
        QuantizeMethod::Ggml(blocks) => plan_tensors(&decoder.config, blocks.kind)
            .iter()
            .filter(|tensor| is_linear(&tensor.name))
            .map(|tensor| {
                let values = tensor.shape.iter().product();
                [values, tensor.kind.bytes_of(values).unwrap_or(0)]
            })
            .collect(),
        _ => (layers.values())
            .map(|layer| [layer.shape().iter().product(), layer.bytes()])
            .collect(),
    };
    [0, 1].map(|which| sizes.iter().map(|size| size[which]).sum())
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

fn not_integers(
    linear: &Linear,
) -> impl FnOnce(model::quant::integer::IntegerError) -> QuantizeError + use<> {
    let tensor = linear.weight.name().to_owned();
    |source| QuantizeError::Matrix { tensor, source }
}
