//! A record of a set of questions, read by the columns that the set has.

use datasets::error::DataError;
use datasets::records::Record;
use serde_json::{Map, Value};

/// A record of a set, with words for what is wrong in it.
pub(crate) struct Row<'a> {
    pub record: &'a Record,
    pub fields: Map<String, Value>,
}

impl Row<'_> {
    /// The first of these columns that is there and not null.
    pub fn value(&self, columns: &[&str]) -> Option<(&Value, String)> {
        columns.iter().find_map(|&column| {
            let value = self.fields.get(column).filter(|value| !value.is_null())?;
            Some((value, column.to_string()))
        })
    }

    pub fn text(&self, columns: &[&str]) -> Result<String, DataError> {
        match self.value(columns) {
            Some((Value::String(text), _)) => Ok(text.clone()),
            // A table may hold "12" as a number.
            Some((Value::Number(number), _)) => Ok(number.to_string()),
            Some((other, column)) => Err(self.record.unexpected(&column, other, "a text")),
            None => Err(self.missing(columns)),
        }
    }

    pub fn texts(&self, columns: &[&str]) -> Result<Vec<String>, DataError> {
        let (value, column) = self.value(columns).ok_or_else(|| self.missing(columns))?;
        let unexpected = || self.record.unexpected(&column, value, "a list of texts");
        let parsed;
        let list = match value {
            Value::Array(list) => list,
            // csv holds lists as JSON.
            Value::String(text) => {
                parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|_| unexpected())?;
                &parsed
            }
            _ => return Err(unexpected()),
        };
        list.iter()
            .map(|text| text.as_str().map(str::to_string).ok_or_else(unexpected))
            .collect()
    }

    /// Which of `count` choices a column names: by a letter, or by a number that begins with `first`.
    pub fn choice(&self, columns: &[&str], count: usize, first: i64) -> Result<usize, DataError> {
        let (value, column) = self.value(columns).ok_or_else(|| self.missing(columns))?;
        let number = |number: i64| usize::try_from(number - first).ok();
        let found = match value {
            Value::Number(found) => found.as_i64().and_then(number),
            Value::String(text) => match text.trim().as_bytes() {
                [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
                _ => text.trim().parse().ok().and_then(number),
            },
            _ => None,
        };
        found.filter(|&choice| choice < count).ok_or_else(|| {
            let last = char::from(b'A' + count.clamp(1, 26) as u8 - 1);
            let expected = format!(
                "a letter from A to {last} or a number from {first} to {}",
                first + count as i64 - 1
            );
            self.record.unexpected(&column, value, &expected)
        })
    }

    fn missing(&self, columns: &[&str]) -> DataError {
        let is_there = |column: &&&str| self.fields.contains_key(**column);
        if let Some(column) = columns.iter().find(is_there) {
            return self.record.unexpected(column, &Value::Null, "a value");
        }
        DataError::MissingColumn {
            path: self.record.path.to_path_buf(),
            column: columns.join("` or `"),
            columns: self.fields.keys().cloned().collect(),
        }
    }
}
