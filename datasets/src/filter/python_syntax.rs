//! Texts that are Python 3, whole.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PythonSyntax {
    /// The column that is looked at. All that a record says when left out.
    pub field: Option<String>,
}
