//! A value that reads well and makes no sense, named by its key below the table being checked.

#[derive(Clone, Debug, PartialEq)]
pub struct Invalid {
    /// Dotted, list items by number: `optimizer.lr`, `loss.1.temperature`.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
}

impl Invalid {
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
            hint: None,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn under(mut self, parent: &str) -> Self {
        self.key = format!("{parent}.{}", self.key);
        self
    }
}

/// Adds an [`Invalid`] for `key` unless `holds`.
pub fn require(found: &mut Vec<Invalid>, holds: bool, key: &str, message: impl Into<String>) {
    if !holds {
        found.push(Invalid::new(key, message));
    }
}
