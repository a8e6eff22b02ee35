//! Where models and data come from. Every source becomes a path on this machine.

mod cache;
mod digest;
mod error;
mod https;
mod hugging_face;
mod pip;
mod sha256;
#[cfg(test)]
mod test_server;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use model::config::DecoderConfig;
use model::weights::hf_config::from_hf_json;
use model::weights::names::expected_tensors;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use teacher::remote::config::RemoteConfig;

pub use cache::Cache;
pub use digest::digest_of_path;
pub use error::SourceError;
pub use https::Https;
pub use hugging_face::{Hub, HuggingFace};
pub use pip::Pip;
pub use sha256::Sha256;

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Path(PathBuf),
    HuggingFace(HuggingFace),
    Https(Https),
    Pip(Pip),
}

/// A model can also be a fresh one, of a given shape and with random weights, or one behind a server.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    Stored(Source),
    Random(RandomModel),
    Remote(RemoteConfig),
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomModel {
    /// The fields of a Hugging Face config.json.
    #[schemars(extend("propertyNames" = { "enum": CONFIG_KEYS }))]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Of the weights.
    #[serde(default)]
    pub seed: u64,
}

impl Source {
    /// What can be said without the network: whether a path is there.
    pub fn check(&self) -> Result<(), SourceError> {
        match self {
            Self::Path(path) if !path.exists() => Err(SourceError::not_found(path)),
            _ => Ok(()),
        }
    }

    /// The name of the file, where the source is a single one.
    pub fn file_name(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => (!path.is_dir()).then_some(path),
            Self::HuggingFace(hub) => hub.file.as_deref().map(Path::new),
            Self::Https(https) => Some(Path::new(&https.url)),
            Self::Pip(pip) => match pip.files.as_slice() {
                [only] => Some(Path::new(only)),
                _ => None,
            },
        }
    }

    /// The path that holds the source, fetched into the cache where that is not done yet: a file,
    /// or a directory for a model of a hub.
    pub fn resolve(&self, cache: &Cache) -> Result<PathBuf, SourceError> {
        self.check()?;
        match self {
            Self::Path(path) => Ok(path.clone()),
            Self::HuggingFace(source) => source.fetch(&Hub::from_env()),
            Self::Https(source) => source.fetch(cache),
            Self::Pip(source) => source.fetch(cache),
        }
    }

    /// The path that `resolve` would give without fetching anything; `None` where something is missing.
    pub fn kept(&self, cache: &Cache) -> Option<PathBuf> {
        match self {
            Self::Path(path) => path.exists().then(|| path.clone()),
            Self::HuggingFace(source) => source.kept(&Hub::from_env()),
            Self::Https(source) => cache.kept(&source.sha256, source.name()),
            Self::Pip(source) => cache.kept(&source.sha256, &source.name()),
        }
    }

    /// The digest of what `resolve` has put at `local`.
    pub fn digest(&self, local: &Path, cache: &Cache) -> Result<Sha256, SourceError> {
        match self {
            Self::Https(Https { sha256, .. }) | Self::Pip(Pip { sha256, .. }) => Ok(sha256.clone()),
            Self::Path(_) | Self::HuggingFace(_) => digest_of_path(local, cache),
        }
    }
}

impl ModelSource {
    /// Reads a table as a recipe has it, written in one line: `{ kind = "pip", … }`.
    pub fn from_inline_table(text: &str) -> Result<Self, SourceError> {
        let wrong = |error: toml::de::Error| SourceError::Syntax(error.message().to_string());
        let mut document: toml::Table =
            toml::from_str(&format!("source = {}", text.trim())).map_err(wrong)?;
        let Some(toml::Value::Table(mut table)) = document.remove("source") else {
            return Err(SourceError::Syntax("this is no table".to_string()));
        };
        // The kind decides how the rest is read, wherever it stands.
        let kind = table.remove_entry("kind");
        let entries = kind.into_iter().chain(table);
        Self::deserialize(MapDeserializer::new(entries)).map_err(wrong)
    }

    pub fn check(&self) -> Result<(), SourceError> {
        match self {
            Self::Stored(Source::HuggingFace(hub)) if hub.is_data => {
                Err(SourceError::Syntax(format!(
                    "`{hub}` is data, a model is wanted here\nhint: write hf:{}",
                    hub.repo
                )))
            }
            Self::Stored(source) => source.check(),
            Self::Random(random) => random.check(),
            // What is wrong with it has keys of its own.
            Self::Remote(_) => Ok(()),
        }
    }
}

/// Keys of a Hugging Face `config.json` of the families that we know; others would be silently ignored.
const CONFIG_KEYS: [&str; 31] = [
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "pretraining_tp",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
];

/// Parameters of the largest model that is made here; a terabyte in `f32`.
const MOST_PARAMETERS: u128 = 250_000_000_000;

impl RandomModel {
    /// The shape that the recipe describes.
    pub fn decoder_config(&self) -> Result<DecoderConfig, SourceError> {
        if let Some(key) = self
            .config
            .keys()
            .find(|key| !CONFIG_KEYS.contains(&key.as_str()))
        {
            let accepted = CONFIG_KEYS.join(", ");
            return Err(SourceError::Syntax(format!(
                "unknown key `{key}` in `config`; accepted: {accepted}"
            )));
        }
        let json = serde_json::Value::Object(self.config.clone());
        let config = from_hf_json(Path::new("`config`"), &json)
            .map_err(|error| SourceError::Syntax(error.to_string()))?;
        let parameters: u128 = expected_tensors(&config)
            .iter()
            .map(|(_, shape)| shape.iter().map(|&axis| axis as u128).product::<u128>())
            .sum();
        if parameters > MOST_PARAMETERS {
            return Err(SourceError::Syntax(format!(
                "`config` describes a model of {parameters} parameters; at most {MOST_PARAMETERS} are made"
            )));
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), SourceError> {
        self.decoder_config().map(|_| ())
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if let Some(rest) = text.strip_prefix("hf:") {
            return rest.parse().map(Self::HuggingFace);
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Err(SourceError::NoDigest {
                url: text.to_string(),
            });
        }
        if text.is_empty() {
            return Err(SourceError::Syntax("the source is empty".to_string()));
        }
        Ok(Self::Path(PathBuf::from(text)))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::HuggingFace(source) => write!(f, "{source}"),
            Self::Https(source) => write!(f, "{}", source.url),
            Self::Pip(source) => write!(f, "{} (pip)", source.packages.join(" ")),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One kind of a source's table, as the schema of an enum has it.
fn kind_schema<T: JsonSchema>(generator: &mut SchemaGenerator, kind: &str) -> Schema {
    let table = generator.subschema_for::<T>();
    json_schema!({
        "type": "object",
        "properties": { kind: table },
        "required": [kind],
        "additionalProperties": false,
    })
}

impl JsonSchema for Source {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds = [
            kind_schema::<Https>(generator, "https"),
            kind_schema::<Pip>(generator, "pip"),
        ];
        json_schema!({ "anyOf": [{ "type": "string", "minLength": 1 }, { "oneOf": kinds }] })
    }
}

impl JsonSchema for ModelSource {
    fn schema_name() -> Cow<'static, str> {
        "ModelSource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds = [
            kind_schema::<Https>(generator, "https"),
            kind_schema::<Pip>(generator, "pip"),
            kind_schema::<RandomModel>(generator, "random"),
            kind_schema::<RemoteConfig>(generator, "remote"),
        ];
        json_schema!({ "anyOf": [{ "type": "string", "minLength": 1 }, { "oneOf": kinds }] })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredKind {
    Https,
    Pip,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelKind {
    Https,
    Pip,
    Random,
    Remote,
}

/// Reads the `kind` of a source's table, which the recipe's reader hands out first.
fn read_kind<'de, K: Deserialize<'de>, A: MapAccess<'de>>(map: &mut A) -> Result<K, A::Error> {
    match map.next_key::<String>()? {
        Some(key) if key == "kind" => map.next_value(),
        _ => Err(de::Error::missing_field("kind")),
    }
}

fn rest<'de, T: Deserialize<'de>, A: MapAccess<'de>>(map: A) -> Result<T, A::Error> {
    T::deserialize(MapAccessDeserializer::new(map))
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path, \"hf:org/name\" or a table with the key `kind`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Source, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Source, A::Error> {
                match read_kind(&mut map)? {
                    StoredKind::Https => rest(map).map(Source::Https),
                    StoredKind::Pip => rest(map).map(Source::Pip),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for ModelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = ModelSource;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path, \"hf:org/name\" or a table with the key `kind`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ModelSource, E> {
                text.parse().map(ModelSource::Stored).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ModelSource, A::Error> {
                let stored = ModelSource::Stored;
                match read_kind(&mut map)? {
                    ModelKind::Https => rest(map).map(Source::Https).map(stored),
                    ModelKind::Pip => rest(map).map(Source::Pip).map(stored),
                    ModelKind::Random => rest(map).map(ModelSource::Random),
                    ModelKind::Remote => rest(map).map(ModelSource::Remote),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_strings() {
        let path: Source = "a/b.txt".parse().unwrap();
        assert_eq!(path, Source::Path("a/b.txt".into()));
        let hub: Source = "hf:org/name@v1".parse().unwrap();
        assert_eq!(hub.to_string(), "hf:org/name@v1");
        let error = "https://a.b/c.gguf"
            .parse::<Source>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\nhint: write { kind = \"https\""),
            "{error}"
        );
        assert!("".parse::<Source>().is_err());
        assert!("hf:name".parse::<Source>().is_err());
    }

    #[test]
    fn reads_tables_in_one_line() {
        let digest = "0".repeat(64);
        let text = format!(
            r#"{{ files = ["a/b.gguf"], kind = "pip", packages = ["a==1"], sha256 = "{digest}" }}"#
        );
        let source = ModelSource::from_inline_table(&text).unwrap();
        assert!(
            matches!(source, ModelSource::Stored(Source::Pip(pip)) if pip.files == ["a/b.gguf"])
        );
        for (wrong, says) in [
            ("{ kind = \"pip\"", "unclosed"),
            ("{ kind = \"ftp\" }", "unknown variant `ftp`"),
            ("{ files = [\"a\"] }", "missing field `kind`"),
            ("{ kind = \"pip\", package = 1 }", "unknown field `package`"),
        ] {
            let error = ModelSource::from_inline_table(wrong)
                .unwrap_err()
                .to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_missing_path_is_told() {
        let cache = Cache::at(std::env::temp_dir());
        let error = Source::Path("no/such/file".into())
            .resolve(&cache)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`no/such/file` does not exist")
        );
    }
}
