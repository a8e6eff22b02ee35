//! Fewer layers of the same width.

use super::error::SurgeryError;
use crate::decoder::Decoder;

impl Decoder {
    /// Keeps only the blocks in `layers`, which rise, and renumbers them.
    ///
    /// # Errors
    /// [`SurgeryError::NoLayer`]; the decoder is then as it was.
    pub fn keep_layers(&mut self, layers: &[usize]) -> Result<(), SurgeryError> {
        let count = self.blocks.len();
        if let Some(&layer) = layers.iter().find(|&&layer| layer >= count) {
            return Err(SurgeryError::NoLayer {
                layer,
                layers: count,
            });
        }
        let windows = std::mem::take(&mut self.config.sliding_windows);
        let blocks = std::mem::take(&mut self.blocks);
        for (old, mut block) in blocks.into_iter().enumerate() {
            if !layers.contains(&old) {
                continue;
            }
            let new = self.blocks.len();
            let from = format!("model.layers.{old}.");
            let to = format!("model.layers.{new}.");
            for name in block.names_mut() {
                *name = name.replacen(&from, &to, 1);
            }
            self.blocks.push(block);
            self.config.sliding_windows.push(windows[old]);
        }
        self.config.num_hidden_layers = self.blocks.len();
        Ok(())
    }
}
