//! Adapters on a decoder's linear layers: the base is frozen, and without an adapter at work it is the model that it
//! was, so that a reference model needs no second copy.

use thiserror::Error;

use crate::attention::Attention;
use crate::block::Block;
use crate::decoder::Decoder;
use crate::linear::Linear;
use crate::linear::lora::{DropoutDraw, Lora, LoraConfig, matches_module};
use crate::mlp::Mlp;

/// Patterns that name nothing.
#[derive(Debug, Error, PartialEq)]
#[error("`targets`: `{pattern}` names no linear layer; there are: {}\nhint: whole names work, too: {example}", found.join(", "))]
pub struct NoTarget {
    pub pattern: String,
    /// The names of modules, without the blocks that they are in.
    pub found: Vec<String>,
    pub example: String,
}

impl Attention {
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj].into_iter()
    }

    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let projections = [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
        ];
        projections.into_iter()
    }
}

impl Mlp {
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.gate_proj, &self.up_proj, &self.down_proj].into_iter()
    }

    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.gate_proj, &mut self.up_proj, &mut self.down_proj].into_iter()
    }
}

impl Block {
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.self_attn.linears().chain(self.mlp.linears())
    }

    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.self_attn.linears_mut().chain(self.mlp.linears_mut())
    }
}

impl Decoder {
    /// The linear layers of all blocks, in the order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(Block::linears)
    }

    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(Block::linears_mut)
    }

    /// From here on nothing that the decoder holds is trained.
    pub fn freeze(&mut self) {
        self.parameters_mut().for_each(|p| p.trainable = false);
    }

    /// Freezes what there is and puts a fresh adapter to work on every layer that `config.targets` name.
    ///
    /// # Errors
    /// When a pattern names nothing; the decoder is then as it was.
    pub fn add_lora(&mut self, name: &str, config: &LoraConfig, seed: u64) -> Result<(), NoTarget> {
        for pattern in &config.targets {
            if !self
                .linears()
                .any(|linear| matches_module(pattern, linear.module()))
            {
                return Err(self.no_target(pattern));
            }
        }
        self.freeze();
        let like = self.norm.value.clone();
        for linear in self.linears_mut() {
            let is_named = |pattern: &String| matches_module(pattern, linear.module());
            if config.targets.iter().any(is_named) {
                let shape = [linear.weight.rows(), linear.weight.columns()];
                let mut lora = Lora::new(linear.module(), shape, config, seed, &like);
                lora.dropout = config.dropout;
                linear.add_adapter(name, lora);
            }
        }
        Ok(())
    }

    /// Puts the adapter of this name to work on every layer that has it; `None` leaves the base alone.
    pub fn use_adapter(&mut self, name: Option<&str>) {
        self.linears_mut()
            .for_each(|linear| linear.use_adapter(name));
    }

    /// Merges what is at work on each layer into its matrix, which is then a dense one.
    pub fn merge_adapters(&mut self) {
        self.linears_mut().for_each(Linear::merge_adapter);
    }

    /// What adapters drop from now on; `None` for nothing.
    pub fn draw_dropout(&mut self, draw: Option<DropoutDraw>) {
        for linear in self.linears_mut() {
            if let Some(lora) = linear.adapter_mut() {
                lora.draw = draw;
            }
        }
    }

    fn no_target(&self, pattern: &str) -> NoTarget {
        let mut found: Vec<String> = Vec::new();
        for linear in self.linears() {
            let inside = linear.module().splitn(4, '.').last().unwrap_or_default();
            if !found.iter().any(|known| known == inside) {
                found.push(inside.to_owned());
            }
        }
        let example = self.linears().last().map(Linear::module);
        NoTarget {
            pattern: pattern.to_owned(),
            found,
            example: example.unwrap_or_default().to_owned(),
        }
    }
}
