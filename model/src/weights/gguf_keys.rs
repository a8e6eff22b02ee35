//! Metadata keys that bear an architecture's name in front.

use super::error::WeightsError;
use super::gguf::Gguf;
use super::gguf_value::GgufValue;

/// Typed access to the keys `{prefix}.…` of a file.
pub(crate) struct Keys<'a> {
    pub(crate) gguf: &'a Gguf,
    pub(crate) prefix: &'a str,
}

impl Keys<'_> {
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    pub(crate) fn wrong(
        &self,
        key: &str,
        found: String,
        expected: impl Into<String>,
    ) -> WeightsError {
        WeightsError::key(self.gguf.path(), &self.name(key), found, expected)
    }

    pub(crate) fn absent(&self, key: &str, expected: &str) -> WeightsError {
        self.wrong(key, "absent".to_owned(), expected)
    }

    pub(crate) fn length(&self, key: &str) -> Result<Option<usize>, WeightsError> {
        let value = self.gguf.unsigned(&self.name(key))?;
        // A length beyond the address space is refused with the others that are too large.
        Ok(value.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
    }

    pub(crate) fn required(&self, key: &str) -> Result<usize, WeightsError> {
        self.length(key)?
            .ok_or_else(|| self.absent(key, "an integer"))
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        self.gguf.float(&self.name(key))
    }

    /// A length that newer files may give for each layer.
    pub(crate) fn same_for_all_layers(
        &self,
        key: &str,
        layers: usize,
    ) -> Result<Option<usize>, WeightsError> {
        let name = self.name(key);
        let Some(GgufValue::Array(array)) = self.gguf.value(&name) else {
            return self.length(key);
        };
        if array.count() != layers as u64 {
            let found = format!("an array of {} elements", array.count());
            return Err(self.wrong(key, found, format!("one for each of {layers} layers")));
        }
        let lengths = self.gguf.array(&name, "an array of integers", |value| {
            value
                .as_u64()
                .and_then(|length| usize::try_from(length).ok())
                .ok_or(value)
        })?;
        let lengths = lengths.unwrap_or_default();
        match lengths.split_first() {
            Some((first, rest)) if rest.iter().all(|length| length == first) => Ok(Some(*first)),
            _ => Err(WeightsError::unsupported(
                self.gguf.path(),
                format!("`{name}`:"),
                "a number of its own for each layer",
                "one number for all layers",
            )),
        }
    }
}
