//! Keys of servers: where they lie, and a value that is never shown.

use std::path::PathBuf;

use reqwest::header::HeaderValue;
use schemars::JsonSchema;
use serde::Deserialize;

use super::answer::Answer;
use super::error::RemoteError;

/// Where a key is to be found: `{ env = "NAME" }` or `{ file = "PATH" }`. A recipe holds this and never the key itself.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "Place")]
pub enum KeySource {
    /// The name of an environment variable.
    Env(String),
    File(PathBuf),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
struct Place {
    /// The name of the environment variable that holds the key.
    env: Option<String>,
    /// The file that holds the key.
    file: Option<PathBuf>,
}

impl TryFrom<Place> for KeySource {
    type Error = &'static str;

    fn try_from(place: Place) -> Result<Self, Self::Error> {
        match (place.env, place.file) {
            (Some(name), None) => Ok(Self::Env(name)),
            (None, Some(path)) => Ok(Self::File(path)),
            _ => Err("a key lies in one place: { env = \"NAME\" } or { file = \"PATH\" }"),
        }
    }
}

/// What is shorter is a word that stands for no key (`EMPTY`, `ollama`), and may well be one of an answer.
const SHORTEST_SECRET: usize = 16;

/// A key. It has neither `Debug` nor `Serialize`: what cannot be shown is not shown by mistake.
pub struct Key(String);

impl KeySource {
    /// # Errors
    /// [`RemoteError::NoKey`] with the variable or the file that holds none.
    pub fn read(&self) -> Result<Key, RemoteError> {
        let missing = |place: String, reason: &str| RemoteError::NoKey {
            place,
            reason: reason.to_owned(),
        };
        let (place, text) = match self {
            Self::Env(name) => {
                let place = format!("the environment variable `{name}`");
                match std::env::var(name) {
                    Ok(text) => (place, text),
                    Err(std::env::VarError::NotPresent) => {
                        return Err(missing(place, "is not set"));
                    }
                    Err(_) => return Err(missing(place, "is not text")),
                }
            }
            Self::File(path) => {
                let place = format!("the file `{}`", path.display());
                match std::fs::read_to_string(path) {
                    Ok(text) => (place, text),
                    Err(error) => {
                        return Err(missing(place, &format!("cannot be read: {error}")));
                    }
                }
            }
        };
        let key = Key(text.trim().to_owned());
        if key.0.is_empty() {
            return Err(missing(place, "is empty"));
        }
        match key.header() {
            Some(_) => Ok(key),
            None => Err(missing(place, "holds characters that no key has")),
        }
    }
}

impl Key {
    /// What authorises a request, marked so that nobody prints it.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut header = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// What a server complains of, without the key: some repeat it.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }

    /// Takes the key out of the texts of an answer, if it is one that nobody writes by chance.
    pub(super) fn redact_answer(&self, answer: &mut Answer) {
        if self.0.len() < SHORTEST_SECRET {
            return;
        }
        for choice in &mut answer.choices {
            let tokens = choice.logprobs.iter_mut().flat_map(|place| {
                let top = place.top.iter_mut().map(|token| &mut token.token);
                top.chain([&mut place.token])
            });
            for text in tokens.chain([&mut choice.text]) {
                if text.contains(&self.0) {
                    *text = self.redact(text);
                }
            }
        }
    }
}
#[cfg(test)]
mod tests {
    use super::super::answer::Choice;
    use super::*;

    #[test]
    fn a_missing_key_is_named_by_its_place() {
        let read = |source: KeySource| source.read().err().map(|error| error.to_string());
        let error = read(KeySource::Env("DISTILL_TEST_NO_SUCH_KEY".into())).unwrap();
        assert!(
            error.contains("`DISTILL_TEST_NO_SUCH_KEY` is not set"),
            "{error}"
        );
        let error = read(KeySource::File("no/such/key".into())).unwrap();
        assert!(error.contains("`no/such/key` cannot be read"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = read(KeySource::File(file.path().into())).unwrap();
        assert!(error.contains("is empty"), "{error}");
        std::fs::write(file.path(), "sk-1\n").unwrap();
        let key = KeySource::File(file.path().into())
            .read()
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(key.header().unwrap().is_sensitive());
        assert!(!format!("{:?}", key.header()).contains("sk-1"));
    }

    #[test]
    fn a_key_has_one_place() {
        let read = |json: &str| serde_json::from_str::<KeySource>(json).map_err(|e| e.to_string());
        assert_eq!(read(r#"{"env": "A"}"#).unwrap(), KeySource::Env("A".into()));
        assert_eq!(
            read(r#"{"file": "a"}"#).unwrap(),
            KeySource::File("a".into())
        );
        assert!(
            read(r#"{"env": "A", "file": "a"}"#)
                .unwrap_err()
                .contains("one place")
        );
        assert!(
            read(r#"{"value": "sk-1"}"#)
                .unwrap_err()
                .contains("unknown field")
        );
        assert!(read(r#""sk-1""#).is_err());
    }

    #[test]
    fn a_key_in_an_answer_is_blotted_out() {
        let said = |key: &str, text: &str| {
            let mut answer = Answer {
                choices: vec![Choice {
                    text: text.into(),
                    ..Choice::default()
                }],
                ..Answer::default()
            };
            Key(key.into()).redact_answer(&mut answer);
            answer.choices.remove(0).text
        };
        let key = "sk-0123456789-abc";
        assert_eq!(Key("sk-1".into()).redact("sk-1, sk-1"), "[key], [key]");
        assert_eq!(said(key, &format!("it is {key}")), "it is [key]");
        // Words that stand where no key is asked for.
        for word in ["EMPTY", "none", "0"] {
            assert_eq!(said(word, "none is EMPTY: 0"), "none is EMPTY: 0");
        }
    }
}
