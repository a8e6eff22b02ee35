//! Texts that are too short or too long.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::words::words;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Length {
    /// Fewest Unicode characters. No limit when left out.
    pub min_characters: Option<usize>,
    /// Most Unicode characters. No limit when left out.
    pub max_characters: Option<usize>,
    /// Fewest words. No limit when left out.
    pub min_words: Option<usize>,
    /// Most words. No limit when left out.
    pub max_words: Option<usize>,
    /// The column that is looked at. All that a record says when left out.
    pub field: Option<String>,
}

impl Length {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let bounds = [
            ("characters", self.min_characters, self.max_characters),
            ("words", self.min_words, self.max_words),
        ];
        if bounds
            .iter()
            .all(|(_, min, max)| min.is_none() && max.is_none())
        {
            let says =
                "`length` needs a limit: min_characters, max_characters, min_words or max_words";
            return vec![(String::new(), says.into())];
        }
        let crossed = bounds
            .into_iter()
            .filter(|(_, min, max)| matches!((min, max), (Some(min), Some(max)) if min > max));
        crossed
            .map(|(what, ..)| {
                let says = format!("`min_{what}` is above `max_{what}`: no text would be left");
                (format!("min_{what}"), says)
            })
            .collect()
    }

    pub(super) fn objection(&self, text: &str) -> Option<String> {
        if self.min_characters.or(self.max_characters).is_some() {
            let count = text.chars().count();
            let outside = outside(count, self.min_characters, self.max_characters);
            if outside {
                return Some(format!("{count} characters"));
            }
        }
        if self.min_words.or(self.max_words).is_some() {
            let count = words(text).count();
            if outside(count, self.min_words, self.max_words) {
                return Some(format!("{count} words"));
            }
        }
        None
    }
}

fn outside(count: usize, min: Option<usize>, max: Option<usize>) -> bool {
    min.is_some_and(|min| count < min) || max.is_some_and(|max| count > max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_allowed_values() {
        let rule = Length {
            min_characters: Some(3),
            max_words: Some(2),
            ..Length::default()
        };
        assert_eq!(rule.objection("한국"), Some("2 characters".into()));
        assert_eq!(rule.objection("한국어"), None);
        assert_eq!(rule.objection("a b c"), Some("3 words".into()));
        assert_eq!(rule.objection("a, b"), None);
        assert_eq!(Length::default().check().len(), 1);
    }
}
