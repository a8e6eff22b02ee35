//! Reads Rust values from a [`Node`] through serde, keeping the place of every error.
//!
//! A tagged enum is a table whose key `kind` names the variant, or that name alone as a string.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor, value::StrDeserializer,
};
use serde::{Deserialize, forward_to_deserialize_any};
use std::ops::Range;

use super::document::{Entry, Node, Value};
use super::problem::Problem;

pub const KIND: &str = "kind";

/// What a value may be stands in the recipe's schema: there is none without.
pub fn read<'de, T: Deserialize<'de> + JsonSchema>(node: &'de Node) -> Result<T, Problem> {
    T::deserialize(Reader(node))
}

/// Reads several structs from one table: each takes the keys that it knows.
pub struct Parts<'de> {
    entries: &'de [Entry],
    span: Range<usize>,
    known: Vec<&'static str>,
    schemas: Vec<PartSchema>,
}

/// The schema of a struct that has been read.
pub type PartSchema = fn(&mut SchemaGenerator) -> Schema;

impl<'de> Parts<'de> {
    pub fn new(node: &'de Node) -> Result<Self, Problem> {
        let entries = node
            .table()
            .ok_or_else(|| Problem::new("expected a table").at(node.span.clone()))?;
        Ok(Self {
            entries,
            span: node.span.clone(),
            known: Vec::new(),
            schemas: Vec::new(),
        })
    }

    pub fn take<T: Deserialize<'de> + JsonSchema>(&mut self) -> Result<T, Problem> {
        self.schemas.push(T::json_schema);
        T::deserialize(Part(self))
    }

    /// The schemas of what was taken, in that order, whether it could be read or not.
    pub fn schemas(self) -> Vec<PartSchema> {
        self.schemas
    }

    /// Fails if a key is left that no part knows. To be asked before the parts are unwrapped: a
    /// misspelt key explains why another one is missing. `inner` are keys of tables below: each with its table.
    pub fn finish(self, inner: &[(&str, &str)]) -> Result<(), Problem> {
        let is_unknown = |entry: &&Entry| !self.known.contains(&entry.key.as_str());
        let Some(entry) = self.entries.iter().find(is_unknown) else {
            return Ok(());
        };
        let problem = Problem::new(format!("unknown key `{}`", entry.key))
            .accepting(&entry.key, &self.known)
            .at(entry.key_span.clone());
        let belongs =
            |(key, table): &&(&str, &str)| *key == entry.key && self.known.contains(table);
        Err(match inner.iter().find(belongs) {
            Some((key, table)) => problem.hint(format!(
                "`{key}` belongs to `{table}`: {table} = {{ {key} = … }}"
            )),
            None => problem,
        })
    }
}

struct Part<'a, 'de>(&'a mut Parts<'de>);

impl<'de> de::Deserializer<'de> for Part<'_, 'de> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.0.known.extend(fields);
        let span = self.0.span.clone();
        let entries = (self.0.entries.iter()).filter(|entry| fields.contains(&entry.key.as_str()));
        visitor
            .visit_map(Table::new(entries.collect()))
            .map_err(|problem| problem.or_at(&span))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Reader<'de>(&'de Node);

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.0.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number).map_err(|problem: Problem| {
                let is_whole = number.fract() == 0.0 && number.abs() < 1e15;
                match is_whole && problem.message.starts_with("expected a whole number") {
                    true => problem.hint(format!("write {number:.0}")),
                    false => problem,
                }
            }),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Array(items) => {
                let mut list = List(items.iter());
                visitor.visit_seq(&mut list).and_then(|value| {
                    let taken = items.len() - list.0.len();
                    let too_much = |extra: &Node| {
                        let message = format!(
                            "a list of {taken} is wanted here, this one has {}",
                            items.len()
                        );
                        Problem::new(message).at(extra.span.clone())
                    };
                    list.0
                        .next()
                        .map_or(Ok(value), |extra| Err(too_much(extra)))
                })
            }
            Value::Table(entries) => visitor.visit_map(Table::new(entries.iter().collect())),
        }
        .map_err(|problem| problem.or_at(&self.0.span))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let is_list = matches!(self.0.value, Value::Array(_));
        self.deserialize_any(visitor)
            .map_err(|problem| match is_list {
                true => problem,
                false => problem.hint("put it in brackets: [ … ]"),
            })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let span = &self.0.span;
        (visitor.visit_newtype_struct(Reader(self.0))).map_err(|problem| problem.or_at(span))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let (tag, rest) = match &self.0.value {
            Value::String(text) => ((text.as_str(), &self.0.span), Vec::new()),
            Value::Table(entries) => {
                let tag = match (self.0.get(KIND), variants) {
                    (Some(kind), _) => match kind.string() {
                        Some(name) => (name, &kind.span),
                        None => {
                            let problem = Problem::new(format!("`{KIND}` is not a string"));
                            return Err(problem.accepting("", variants).at(kind.span.clone()));
                        }
                    },
                    // There is only one: it goes without saying.
                    (None, [only]) => (*only, &self.0.span),
                    (None, _) => {
                        let problem = Problem::new(format!("missing key `{KIND}`"));
                        let problem = problem.accepting("", variants).at(self.0.span.clone());
                        let first = variants.first().copied().unwrap_or_default();
                        return Err(problem.hint(format!("add {KIND} = \"{first}\", for example")));
                    }
                };
                let rest = entries.iter().filter(|entry| entry.key != KIND).collect();
                (tag, rest)
            }
            _ => {
                let problem = Problem::new(format!("expected a table with the key `{KIND}`"));
                return Err(problem.accepting("", variants).at(self.0.span.clone()));
            }
        };
        let tagged = Tagged { tag, rest };
        (visitor.visit_enum(tagged)).map_err(|problem| problem.or_at(&self.0.span))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

struct List<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Problem> {
        let Some(node) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(Reader(node)).map(Some)
    }
}

/// The entries of a table, `kind` first: who reads a table by hand learns its kind before the rest.
struct Table<'de> {
    entries: std::vec::IntoIter<&'de Entry>,
    value: Option<&'de Node>,
}

impl<'de> Table<'de> {
    fn new(mut entries: Vec<&'de Entry>) -> Self {
        entries.sort_by_key(|entry| entry.key != KIND);
        Self {
            entries: entries.into_iter(),
            value: None,
        }
    }
}

impl<'de> MapAccess<'de> for Table<'de> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Problem> {
        let Some(entry) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(&entry.node);
        seed.deserialize(name(&entry.key))
            .map(Some)
            .map_err(|problem| problem.or_at(&entry.key_span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let node = (self.value.take()).ok_or_else(|| Problem::new("a value without its key"))?;
        // What a value's own checks refuse has no closer place.
        (seed.deserialize(Reader(node))).map_err(|problem| problem.or_at(&node.span))
    }
}

struct Tagged<'de> {
    tag: (&'de str, &'de Range<usize>),
    rest: Vec<&'de Entry>,
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = Problem;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Problem> {
        let variant = seed
            .deserialize(name(self.tag.0))
            .map_err(|problem| problem.or_at(self.tag.1))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Tagged<'de> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        match self.rest.first() {
            None => Ok(()),
            Some(entry) => {
                let message = format!("unknown key `{}`: `{}` takes none", entry.key, self.tag.0);
                Err(Problem::new(message).at(entry.key_span.clone()))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Problem> {
        let span = self.tag.1;
        seed.deserialize(de::value::MapAccessDeserializer::new(Table::new(self.rest)))
            .map_err(|problem| problem.or_at(span))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Problem> {
        Err(Problem::new("a list cannot carry a `kind`").at(self.tag.1.clone()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let span = self.tag.1;
        (visitor.visit_map(Table::new(self.rest))).map_err(|problem| problem.or_at(span))
    }
}

fn name(text: &str) -> StrDeserializer<'_, Problem> {
    text.into_deserializer()
}

#[cfg(test)]
mod tests;
