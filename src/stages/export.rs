//! Stage `export`: a model where the user wants it, in the format that others read.

use std::path::PathBuf;

use anyhow::Result;
use model::weights::dtype::WeightDtype;

use super::Chain;
use super::models::write_model;
use crate::plan::PlannedStage;
use crate::recipe::{Export, ExportFormat, FloatType};

impl Chain<'_> {
    pub fn export(&self, stage: &PlannedStage, config: &Export) -> Result<()> {
        let opened = self.open_model(stage, "model")?;
        let target = export_target(stage, config);
        let ExportFormat::Safetensors = config.to;
        if config.path.is_none() && target.exists() {
            std::fs::remove_dir_all(&target)?;
        }
        write_model(
            &target,
            &opened.decoder,
            &opened.tokenizer,
            weight_dtype(config.dtype),
        )
    }
}

/// Where the stage writes to.
pub fn export_target(stage: &PlannedStage, config: &Export) -> PathBuf {
    config
        .path
        .clone()
        .unwrap_or_else(|| stage.directory.join("model"))
}

pub fn weight_dtype(dtype: FloatType) -> WeightDtype {
    match dtype {
        FloatType::F32 => WeightDtype::F32,
        FloatType::F16 => WeightDtype::F16,
        FloatType::Bf16 => WeightDtype::Bf16,
    }
}
