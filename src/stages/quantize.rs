//! Stage `quantize`: linear layers as codes, and what that costs.

mod methods;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use datasets::mask::SampleEncoder;
use evals::logit_comparison::LogitDifference;
use evals::model_comparison::compare_models;
use evals::perplexity::{PerplexityConfig, documents};
use model::batch::TokenBatch;
use model::decoder::Decoder;
use model::weights::gguf_types::plan_tensors;
use model::weights::names::is_linear;
use serde::{Deserialize, Serialize};

use super::corpus::calibration_windows;
use super::models::{Layers, OpenModel};
use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Calibration, Quantize, QuantizeMethod};
use methods::quantize;

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
        let original = self.open_to_change(stage, "model")?;
        let window = PerplexityConfig {
            window: config.window,
            stride: None,
            limit: Some(config.heldout_tokens),
        };
        (window.window_and_stride(original.decoder.config.max_position_embeddings))
            .with_context(|| self.key_of(stage, "window"))?;
        if let QuantizeMethod::Ggml(blocks) = &config.method {
            Progress::other_types(&plan_tensors(&original.decoder.config, blocks.kind));
        }
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

        let bar = progress.scoring("before and after", "tokens");
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
