//! Stage `prune`: fewer blocks, narrower FFNs.

use anyhow::{Context, Result, bail};
use datasets::loader::BatchLoader;
use datasets::mask::SampleEncoder;
use model::surgery::width::ChannelImportance;

use super::Chain;
use super::corpus::calibration_rows;
use super::importance::{block_importance, measure_channels};
use super::models::OpenModel;
use crate::plan::PlannedStage;
use crate::recipe::{FfnWidth, KeepLayers, Prune};

/// Tokens of a calibration sequence.
pub const CALIBRATION_LENGTH: usize = 512;
/// Calibration sequences, where the recipe does not say how many.
pub const SEQUENCES: usize = 32;

impl Chain<'_> {
    /// Layers and channels are both chosen on the whole model, before anything goes.
    pub fn prune(&self, stage: &PlannedStage, config: &Prune) -> Result<()> {
        let mut opened = self.open_whole(stage, "model")?;
        let (blocks, width) = (
            opened.decoder.blocks.len(),
            opened.decoder.config.intermediate_size,
        );
        let layers = match &config.keep_layers {
            Some(keep) => self.layers_to_keep(stage, &opened, keep)?,
            None => (0..blocks).collect(),
        };
        let channels = match &config.ffn_width {
            Some(narrower) => Some(self.channels_to_keep(stage, &opened, narrower)?),
            None => None,
        };
        opened
            .decoder
            .keep_layers(&layers)
            .with_context(|| self.key_of(stage, "keep_layers"))?;
        if layers.len() < blocks {
            tracing::info!("kept {} of {blocks} layers: {layers:?}", layers.len());
        }
        if let Some(channels) = channels {
            let kept: Vec<_> = layers
                .iter()
                .map(|&layer| channels[layer].clone())
                .collect();
            opened.decoder.keep_channels(&kept);
            let now = opened.decoder.config.intermediate_size;
            tracing::info!("kept {now} of {width} channels of every FFN");
        }
        self.save_model(stage, &opened.decoder, &opened.tokenizer, None)
    }

    fn layers_to_keep(
        &self,
        stage: &PlannedStage,
        opened: &OpenModel,
        keep: &KeepLayers,
    ) -> Result<Vec<usize>> {
        let blocks = opened.decoder.blocks.len();
        Ok(match keep {
            KeepLayers::Every(n) => (0..blocks).step_by(*n).collect(),
            KeepLayers::These(layers) => layers.clone(),
            KeepLayers::Best(best) => {
                let (rows, sequences) =
                    self.calibration(stage, opened, "keep_layers", best.sequences)?;
                if best.count > blocks {
                    let key = self.key_of(stage, "keep_layers.count");
                    bail!("{key} is {}, but the model has {blocks} layers", best.count);
                }
                let importance = block_importance(&opened.decoder, &rows, sequences);
                most_important(&importance, best.count)
            }
        })
    }

    /// The channels of every layer, one list each.
    fn channels_to_keep(
        &self,
        stage: &PlannedStage,
        opened: &OpenModel,
        narrower: &FfnWidth,
    ) -> Result<Vec<Vec<usize>>> {
        let width = (narrower.keep).of(opened.decoder.config.intermediate_size);
        let mut importance = ChannelImportance::new(&opened.decoder, width)
            .with_context(|| self.key_of(stage, "ffn_width.keep"))?;
        let (rows, sequences) = self.calibration(stage, opened, "ffn_width", narrower.sequences)?;
        measure_channels(&mut importance, &opened.decoder, &rows, sequences);
        Ok(importance.most_important())
    }

    /// Rows of the data that `key` names, and how many of them are read.
    fn calibration(
        &self,
        stage: &PlannedStage,
        opened: &OpenModel,
        key: &str,
        sequences: Option<usize>,
    ) -> Result<(BatchLoader, usize)> {
        let encoder = SampleEncoder::new(&opened.tokenizer)?;
        let cache = self.tokens(stage, &format!("{key}.data"), &encoder)?;
        let length = CALIBRATION_LENGTH.min(opened.decoder.config.max_position_embeddings);
        // The last one may be shorter.
        let found = cache.tokens().div_ceil(length as u64) as usize;
        let wanted = sequences.unwrap_or(SEQUENCES);
        if found < wanted {
            if sequences.is_some() {
                let key = self.key_of(stage, &format!("{key}.sequences"));
                bail!(
                    "{key} is {wanted}, but the text has {found} of {length} tokens\nhint: lower `sequences`, or take more text"
                );
            }
            tracing::warn!("`{key}` reads {found} sequences of {length} tokens: there are no more");
        }
        let sequences = wanted.min(found);
        Ok((calibration_rows(cache, sequences, length)?, sequences))
    }
}

fn most_important(importance: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..importance.len()).collect();
    order.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]).then(a.cmp(&b)));
    let mut kept = order[..count].to_vec();
    kept.sort_unstable();
    kept
}
