//! Stage `gqa`: fewer key/value heads.

use anyhow::{Context, Result};

use super::Chain;
use crate::plan::PlannedStage;
use crate::recipe::Gqa;

impl Chain<'_> {
    pub fn gqa(&self, stage: &PlannedStage, config: &Gqa) -> Result<()> {
        let mut opened = self.open_whole(stage, "model")?;
        let before = opened.decoder.config.num_key_value_heads;
        opened
            .decoder
            .group_kv_heads(config.kv_heads, config.pooling, self.recipe.seed)
            .with_context(|| self.key_of(stage, "kv_heads"))?;
        tracing::info!("{} of {before} key/value heads", config.kv_heads);
        self.save_model(stage, &opened.decoder, &opened.tokenizer, None)
    }
}
