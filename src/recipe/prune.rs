//! What the stage `prune` takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ffn_width::FfnWidth;
use super::invalid::{Invalid, require};
use super::keep_layers::KeepLayers;

/// Takes layers out of a model, or channels out of its feed-forward networks.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Prune {
    /// The model that loses layers or channels.
    #[serde(skip_serializing)]
    pub model: String,
    /// The layers that stay: "every-third" and the like, their numbers from 0, or the most important ones. All when
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_layers: Option<KeepLayers>,
    /// The channels of the feed-forward networks that stay. All when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn_width: Option<FfnWidth>,
}

impl Prune {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let layers = self.keep_layers.iter().flat_map(KeepLayers::check);
        found.extend(layers.map(|invalid| invalid.under("keep_layers")));
        let channels = self.ffn_width.iter().flat_map(FfnWidth::check);
        found.extend(channels.map(|invalid| invalid.under("ffn_width")));
        require(
            &mut found,
            self.keep_layers.is_some() || self.ffn_width.is_some(),
            "",
            "`prune` needs `keep_layers` or `ffn_width`: what is to go is not said",
        );
        found
    }
}
