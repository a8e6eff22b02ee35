//! What the stage `gqa` takes.

use model::surgery::gqa::Pooling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, require};

/// Joins the key and value heads of a model in groups (arXiv 2305.13245).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Gqa {
    /// The model whose key and value heads are joined.
    #[serde(skip_serializing)]
    pub model: String,
    /// Key and value heads that stay in each layer; a divisor of those there are. 1 is multi-query attention.
    #[schemars(range(min = 1))]
    pub kv_heads: usize,
    /// What becomes of the heads of a group.
    #[serde(default)]
    pub pooling: Pooling,
}

impl Gqa {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let says = "`kv_heads` must be at least 1; 1 is multi-query attention";
        require(&mut found, self.kv_heads > 0, "kv_heads", says);
        found
    }
}
