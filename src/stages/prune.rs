//! Stage `prune`: fewer blocks of the same width.

use anyhow::{Result, bail};
use datasets::mask::SampleEncoder;

use super::Chain;
use super::corpus::calibration_rows;
use super::importance::block_importance;
use crate::plan::PlannedStage;
use crate::recipe::{BestLayers, KeepLayers, Prune};

/// Tokens of a calibration sequence.
const CALIBRATION_LENGTH: usize = 512;

impl Chain<'_> {
    pub fn prune(&self, stage: &PlannedStage, config: &Prune) -> Result<()> {
        let mut opened = self.open_model(stage, "model")?;
        let blocks = opened.decoder.blocks.len();
        let kept = match &config.keep_layers {
            KeepLayers::Every(n) => (0..blocks).step_by(*n).collect(),
            KeepLayers::These(layers) => layers.clone(),
            KeepLayers::Best(best) => {
                let encoder = SampleEncoder::new(&opened.tokenizer)?;
                let cache = self.tokens(stage, "keep_layers.data", &encoder)?;
                let length = CALIBRATION_LENGTH.min(opened.decoder.config.max_position_embeddings);
                let rows = calibration_rows(cache, best.sequences, length)?;
                most_important(
                    &block_importance(&opened.decoder, &rows, best.sequences),
                    best,
                )?
            }
        };
        if let Some(layer) = kept.iter().find(|&&layer| layer >= blocks) {
            bail!(
                "`keep_layers` keeps layer {layer}, but the model has layers 0 to {}",
                blocks - 1
            );
        }
        opened.decoder.keep_layers(&kept);
        tracing::info!("kept {} of {blocks} layers: {kept:?}", kept.len());
        self.save_model(stage, &opened.decoder, &opened.tokenizer)
    }
}

fn most_important(importance: &[f64], best: &BestLayers) -> Result<Vec<usize>> {
    if best.count > importance.len() {
        bail!(
            "`keep_layers.count` is {}, but the model has {} layers",
            best.count,
            importance.len()
        );
    }
    let mut order: Vec<usize> = (0..importance.len()).collect();
    order.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]).then(a.cmp(&b)));
    let mut kept = order[..best.count].to_vec();
    kept.sort_unstable();
    Ok(kept)
}
