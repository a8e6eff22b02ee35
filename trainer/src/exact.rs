//! Numbers in JSON that come back with the same bits: as the shortest text that Rust reads as the same number. A number of
//! JSON itself is read to within one unit in the last place.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer, de};

pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    read(&String::deserialize(deserializer)?)
}

fn read<E: de::Error>(text: &str) -> Result<f64, E> {
    f64::from_str(text).map_err(|_| E::custom(format!("`{text}` is no number")))
}

/// Numbers that may be missing.
pub mod option {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<f64>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.as_deref().map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Numbers(
        #[serde(with = "super")] f64,
        #[serde(with = "super::option")] Option<f64>,
    );

    #[test]
    fn every_bit_comes_back() {
        let same = |numbers: Numbers| {
            let text = serde_json::to_string(&numbers).unwrap();
            let read: Numbers = serde_json::from_str(&text).unwrap();
            let bits = |n: &Numbers| (n.0.to_bits(), n.1.map(f64::to_bits));
            assert_eq!(bits(&read), bits(&numbers), "{text}");
        };
        for edge in [
            0.0,
            -0.0,
            f64::MIN_POSITIVE,
            5e-324,
            f64::MAX,
            f64::INFINITY,
        ] {
            same(Numbers(edge, None));
        }
        // A cheap walk through all exponents and mantissas.
        let mut bits = 1u64;
        for _ in 0..20_000 {
            bits = bits
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let value = f64::from_bits(bits);
            if value.is_finite() {
                same(Numbers(value, Some(-value)));
            }
        }
        for text in ["[\"one\", null]", "[1.5, null]"] {
            assert!(serde_json::from_str::<Numbers>(text).is_err(), "{text}");
        }
    }
}
