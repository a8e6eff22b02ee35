//! Tokenizers as Hugging Face directories: `tokenizer.json` and the small files beside it.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::DataError;
use crate::tokenizer::{SpecialTokens, Tokenizer, tokenizer_error};

impl Tokenizer {
    /// Reads `tokenizer.json` with what `tokenizer_config.json`, `chat_template.jinja` and
    /// `generation_config.json` say about special tokens and the template; all but the first may be absent.
    pub fn from_directory(directory: &Path) -> Result<Self, DataError> {
        let path = directory.join("tokenizer.json");
        let name = path.display().to_string();
        let Some(tokenizer) = read_json(&path)? else {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(DataError::io("read", &path)(missing));
        };
        let config = read_json(&directory.join("tokenizer_config.json"))?.unwrap_or_default();
        let mut result = Self::from_json(name.clone(), tokenizer, SpecialTokens::default())?;
        let id = |key: &str| -> Result<Option<u32>, DataError> {
            let Some(token) = token_text(config.get(key)) else {
                return Ok(None);
            };
            match result.token_id(token) {
                Some(id) => Ok(Some(id)),
                None => Err(tokenizer_error(
                    &name,
                    format!(
                        "tokenizer_config.json names {key} `{token}`, which is not in the vocabulary"
                    ),
                )),
            }
        };
        let special = SpecialTokens {
            bos: id("bos_token")?,
            eos: id("eos_token")?.into_iter().collect(),
            pad: id("pad_token")?,
            unk: id("unk_token")?,
            chat_template: chat_template_in(directory, &config)?,
        };
        result.special = special;
        let generation = read_json(&directory.join("generation_config.json"))?.unwrap_or_default();
        result.add_eos_ids(&ids(generation.get("eos_token_id")));
        Ok(result)
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, which
    /// `transformers.AutoTokenizer` loads.
    pub fn save(&self, directory: &Path) -> Result<(), DataError> {
        fs::create_dir_all(directory).map_err(DataError::io("create", directory))?;
        let text = |id: Option<u32>| id.and_then(|id| self.token(id));
        let mut map = Map::new();
        for (key, token) in [
            ("bos_token", text(self.bos_id())),
            ("eos_token", text(self.eos_ids().first().copied())),
            ("pad_token", text(self.pad_id())),
            ("unk_token", text(self.unk_id())),
        ] {
            if let Some(token) = token {
                map.insert(key.into(), token.into());
            }
        }
        let mut config = map.clone();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        if let Some(template) = self.chat_template() {
            config.insert("chat_template".into(), template.into());
        }
        let tokenizer = self
            .inner
            .to_string(true)
            .map_err(|e| tokenizer_error("to be saved", e))?;
        write(&directory.join("tokenizer.json"), &tokenizer)?;
        write(
            &directory.join("tokenizer_config.json"),
            &format!("{:#}", json!(config)),
        )?;
        write(
            &directory.join("special_tokens_map.json"),
            &format!("{:#}", json!(map)),
        )
    }
}

/// Waits until the file is on the disk: whoever renames the directory into place relies on that.
fn write(path: &Path, text: &str) -> Result<(), DataError> {
    fs::write(path, text)
        .and_then(|()| fs::File::open(path)?.sync_all())
        .map_err(DataError::io("write", path))
}

fn read_json(path: &Path) -> Result<Option<Value>, DataError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| DataError::Malformed {
                path: path.to_path_buf(),
                expected: "JSON",
                found: e.to_string(),
            }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataError::io("read", path)(error)),
    }
}

/// A token is written as text or as `{"content": …}`.
fn token_text(value: Option<&Value>) -> Option<&str> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The chat template of a model's directory, without its tokenizer.
///
/// # Errors
/// Files that cannot be read.
pub fn chat_template(directory: &Path) -> Result<Option<String>, DataError> {
    let config = read_json(&directory.join("tokenizer_config.json"))?.unwrap_or_default();
    chat_template_in(directory, &config)
}

/// `chat_template.jinja` wins over the config, which holds one template or a list of named ones.
fn chat_template_in(directory: &Path, config: &Value) -> Result<Option<String>, DataError> {
    let path = directory.join("chat_template.jinja");
    match fs::read_to_string(&path) {
        Ok(text) => return Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(DataError::io("read", &path)(error)),
    }
    Ok(match config.get("chat_template") {
        Some(Value::Array(list)) => list
            .iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))
            .or(list.first())
            .and_then(|t| t.get("template")?.as_str())
            .map(str::to_string),
        Some(value) => value.as_str().map(str::to_string),
        None => None,
    })
}
