//! Which layers `prune` keeps.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;

use super::invalid::{Invalid, require};

#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum KeepLayers {
    /// Layers 0, n, 2n, …
    Every(usize),
    These(Vec<usize>),
    Best(BestLayers),
}

/// The `count` layers that change their input most, measured on some sequences of the data.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestLayers {
    /// Layers that stay.
    #[schemars(range(min = 1))]
    pub count: usize,
    /// What makes a layer important.
    pub by: Measure,
    /// The data that it is measured on.
    #[serde(skip_serializing)]
    pub data: String,
    /// Sequences that are read. 32, or as many as the data has, when left out.
    #[schemars(range(min = 1))]
    pub sequences: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// 1 − cos(input, output) of the block.
    Importance,
}

const EVERY: [(&str, usize); 3] = [("every-second", 2), ("every-third", 3), ("every-fourth", 4)];

impl KeepLayers {
    /// How many of so many layers stay.
    ///
    /// # Errors
    /// Layers that there are not, below `keep_layers`.
    pub fn count_of(&self, layers: usize) -> Result<usize, Invalid> {
        let beyond = |key: &str, says| Err(Invalid::new(key, says).under("keep_layers"));
        match self {
            Self::Every(n) => Ok(layers.div_ceil(*n)),
            Self::These(kept) => match kept.iter().position(|layer| *layer >= layers) {
                Some(at) => beyond(
                    &at.to_string(),
                    format!(
                        "the model has {layers} layers, 0 to {}",
                        layers.saturating_sub(1)
                    ),
                ),
                None => Ok(kept.len()),
            },
            Self::Best(best) if best.count > layers => {
                beyond("count", format!("the model has {layers} layers"))
            }
            Self::Best(best) => Ok(best.count),
        }
    }

    pub fn data(&self) -> Option<&str> {
        match self {
            Self::Best(best) => Some(&best.data),
            _ => None,
        }
    }

    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        match self {
            Self::Every(_) => {}
            Self::These(layers) => {
                require(
                    &mut found,
                    !layers.is_empty(),
                    "",
                    "`keep_layers` keeps no layer",
                );
                for i in 1..layers.len() {
                    require(
                        &mut found,
                        layers[i - 1] < layers[i],
                        &i.to_string(),
                        "layers are listed in rising order, each once",
                    );
                }
            }
            Self::Best(best) => {
                require(
                    &mut found,
                    best.count > 0,
                    "count",
                    "`count` must be at least 1 layer",
                );
                let says = "`sequences` must be at least 1";
                require(&mut found, best.sequences != Some(0), "sequences", says);
            }
        }
        found
    }
}

impl JsonSchema for KeepLayers {
    fn schema_name() -> Cow<'static, str> {
        "KeepLayers".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "enum": EVERY.map(|(name, _)| name) },
            { "type": "array", "items": generator.subschema_for::<usize>(), "minItems": 1 },
            generator.subschema_for::<BestLayers>(),
        ] })
    }
}

impl<'de> Deserialize<'de> for KeepLayers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keep;
        impl<'de> Visitor<'de> for Keep {
            type Value = KeepLayers;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                let [(second, _), (third, _), (fourth, _)] = EVERY;
                write!(
                    f,
                    "\"{second}\", \"{third}\", \"{fourth}\", a list of layer numbers \
                     or {{ count, by, data }}"
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepLayers, E> {
                (EVERY.iter().find(|(name, _)| *name == text))
                    .map(|&(_, n)| KeepLayers::Every(n))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<KeepLayers, A::Error> {
                let mut layers = Vec::new();
                while let Some(layer) = list.next_element()? {
                    layers.push(layer);
                }
                Ok(KeepLayers::These(layers))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeepLayers, A::Error> {
                BestLayers::deserialize(MapAccessDeserializer::new(map)).map(KeepLayers::Best)
            }
        }
        deserializer.deserialize_any(Keep)
    }
}
