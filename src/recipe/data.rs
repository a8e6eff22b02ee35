//! Named data: where it lies and how it is read, and how a stage mixes it.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;

use super::invalid::{Invalid, require};

/// `data = "train"`, or several with weights.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(transparent)]
pub struct DataMix(pub Vec<DataShare>);

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataShare {
    /// The name of data.
    #[serde(skip_serializing)]
    pub name: String,
    /// Its part among all weights: how often it is drawn from.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight: f64,
}

impl<'de> Deserialize<'de> for DataMix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Mix;
        impl<'de> Visitor<'de> for Mix {
            type Value = DataMix;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of data or a list of { name, weight }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<DataMix, E> {
                let name = name.to_string();
                Ok(DataMix(vec![DataShare { name, weight: 1.0 }]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<DataMix, A::Error> {
                let mut shares = Vec::new();
                while let Some(Weighted(share)) = list.next_element()? {
                    shares.push(share);
                }
                Ok(DataMix(shares))
            }
        }
        deserializer.deserialize_any(Mix)
    }
}

impl JsonSchema for DataMix {
    fn schema_name() -> Cow<'static, str> {
        "DataMix".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": generator.subschema_for::<DataShare>(), "minItems": 1 },
        ] })
    }
}

/// One of a list.
struct Weighted(DataShare);

impl<'de> Deserialize<'de> for Weighted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Share;
        impl<'de> Visitor<'de> for Share {
            type Value = Weighted;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("{ name, weight }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Weighted, E> {
                Err(E::custom(format!(
                    "data of a list has a weight\nhint: write {{ name = \"{name}\", weight = 1 }}"
                )))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Weighted, A::Error> {
                DataShare::deserialize(MapAccessDeserializer::new(map)).map(Weighted)
            }
        }
        deserializer.deserialize_any(Share)
    }
}

impl DataMix {
    /// The names, each with the key that it stands under.
    pub fn names(&self) -> impl Iterator<Item = (String, &str)> {
        (self.0.iter().enumerate())
            .map(|(i, share)| (format!("data.{i}.name"), share.name.as_str()))
    }

    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        require(
            &mut found,
            !self.0.is_empty(),
            "data",
            "`data` names nothing",
        );
        for (i, share) in self.0.iter().enumerate() {
            require(
                &mut found,
                share.weight > 0.0 && share.weight.is_finite(),
                &format!("data.{i}.weight"),
                "`weight` must be above 0",
            );
            if self.0[..i].iter().any(|earlier| earlier.name == share.name) {
                let message = format!("`{}` is listed twice", share.name);
                found.push(Invalid::new(format!("data.{i}.name"), message));
            }
        }
        found
    }
}
