//! Texts by regular expressions, of the crate `regex`: linear in the length of the text.

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Objection;
use crate::error::DataError;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    /// A text that one of these matches is dropped.
    #[serde(default)]
    pub drop: Vec<String>,
    /// A text that one of these does not match is dropped.
    #[serde(default)]
    pub require: Vec<String>,
    /// The column that is looked at. All that a record says when left out.
    pub field: Option<String>,
}

impl Matching {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        if self.drop.is_empty() && self.require.is_empty() {
            return vec![(String::new(), "`regex` needs `drop` or `require`".into())];
        }
        let named = [("drop", &self.drop), ("require", &self.require)];
        let all = named.into_iter().flat_map(|(key, patterns)| {
            let numbered = patterns.iter().enumerate();
            numbered.map(move |(i, pattern)| (format!("{key}.{i}"), pattern))
        });
        all.filter_map(|(key, pattern)| {
            let error = Regex::new(pattern).err()?;
            Some((key, explain(&error)))
        })
        .collect()
    }

    pub(super) fn objection(self) -> Result<Objection, DataError> {
        let compiled = |patterns: &[String]| -> Result<Vec<Regex>, DataError> {
            let compile = |pattern: &String| {
                Regex::new(pattern).map_err(|error| DataError::Setting {
                    key: "regex",
                    found: pattern.clone(),
                    expected: explain(&error),
                })
            };
            patterns.iter().map(compile).collect()
        };
        let (drop, require) = (compiled(&self.drop)?, compiled(&self.require)?);
        Ok(Box::new(move |text| {
            if let Some((pattern, found)) = drop
                .iter()
                .find_map(|pattern| Some((pattern, pattern.find(text)?)))
            {
                return Some(format!("`{pattern}` matches `{}`", found.as_str()));
            }
            let missing = require.iter().find(|pattern| !pattern.is_match(text))?;
            Some(format!("`{missing}` does not match"))
        }))
    }
}

/// The pattern with a mark where it goes wrong, and the reason below.
fn explain(error: &regex::Error) -> String {
    let text = error.to_string().replace("\nerror: ", "\n    ");
    text.replacen("regex parse error:", "the pattern does not compile:", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches_goes_and_what_is_required_stays() {
        let rule = Matching {
            drop: vec!["(?i)lorem +ipsum".into()],
            require: vec!["[.!?]".into()],
            field: None,
        };
        let objection = rule.objection().unwrap();
        let detail = objection("So: Lorem  ipsum.").unwrap();
        assert_eq!(detail, "`(?i)lorem +ipsum` matches `Lorem  ipsum`");
        assert_eq!(objection("no end").unwrap(), "`[.!?]` does not match");
        assert_eq!(objection("An end."), None);
    }

    #[test]
    fn a_pattern_that_does_not_compile_shows_where() {
        let rule = Matching {
            drop: vec!["fine".into(), "a(b".into()],
            ..Matching::default()
        };
        let found = rule.check();
        assert_eq!(found[0].0, "drop.1");
        assert!(found[0].1.contains("    a(b\n     ^\n"), "{}", found[0].1);
    }
}
