//! Typed access to a JSON object of a configuration file, with errors that name the key.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::WeightsError;

/// An object and the file that it comes from. A key that is `null` counts as absent in the optional
/// getters; [`JsonFields::has`] tells the two apart.
#[derive(Clone, Copy)]
pub(crate) struct JsonFields<'a> {
    pub(crate) path: &'a Path,
    object: &'a Map<String, Value>,
}

/// What a value is, for messages.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(elements) => format!("an array of {} elements", elements.len()),
        Value::Object(_) => "an object".to_owned(),
        scalar => {
            let text = scalar.to_string();
            let head: String = text.chars().take(60).collect();
            if head.len() < text.len() {
                head + "…"
            } else {
                head
            }
        }
    }
}

impl<'a> JsonFields<'a> {
    /// # Errors
    /// If `value` is not an object.
    pub(crate) fn new(path: &'a Path, value: &'a Value) -> Result<Self, WeightsError> {
        match value {
            Value::Object(object) => Ok(Self { path, object }),
            other => {
                let problem = format!("holds {} instead of a JSON object", describe(other));
                Err(WeightsError::malformed(path, problem))
            }
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// A key that is none of these.
    pub(crate) fn other_than(&self, known: &[&str]) -> Option<&'a str> {
        (self.object.keys())
            .map(String::as_str)
            .find(|key| !known.contains(key))
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The error that `key` is not what was expected.
    pub(crate) fn wrong(&self, key: &str, expected: &str) -> WeightsError {
        let found = self.object.get(key).map_or("absent".to_owned(), describe);
        WeightsError::key(self.path, key, found, expected)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.wrong(key, expected)),
            },
        }
    }

    pub(crate) fn length(&self, key: &str) -> Result<Option<usize>, WeightsError> {
        self.typed(key, "a non-negative integer", |value| {
            value.as_u64()?.try_into().ok()
        })
    }

    pub(crate) fn required_length(&self, key: &str) -> Result<usize, WeightsError> {
        self.length(key)?
            .ok_or_else(|| self.wrong(key, "a non-negative integer"))
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(crate) fn required_float(&self, key: &str) -> Result<f64, WeightsError> {
        self.float(key)?.ok_or_else(|| self.wrong(key, "a number"))
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, WeightsError> {
        self.typed(key, "a text", Value::as_str)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<JsonFields<'a>>, WeightsError> {
        let path = self.path;
        self.typed(key, "an object", |value| {
            Some(JsonFields {
                path,
                object: value.as_object()?,
            })
        })
    }

    /// A token id; some files say −1 for none.
    pub(crate) fn id(&self, key: &str) -> Result<Option<u32>, WeightsError> {
        if self.value(key).and_then(Value::as_i64) == Some(-1) {
            return Ok(None);
        }
        self.typed(key, "a token id", |value| value.as_u64()?.try_into().ok())
    }

    /// A token id or a list of them.
    pub(crate) fn ids(&self, key: &str) -> Result<Option<Vec<u32>>, WeightsError> {
        let one = |value: &Value| value.as_u64()?.try_into().ok();
        self.typed(key, "a token id or a list of them", |value| match value {
            Value::Array(elements) => elements.iter().map(one).collect(),
            value => Some(vec![one(value)?]),
        })
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, WeightsError> {
        self.typed(key, "a list of texts", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }
}
