//! As much of draft 7 as the schema uses. A keyword that is not known here fails, so none is passed over.

use regex::Regex;
use serde_json::{Map, Value};

type Validity = Result<(), String>;

/// # Errors
/// The first thing that does not fit, with the value.
pub fn validate(schema: &Value, value: &Value, root: &Value) -> Validity {
    let object = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return Err(format!("{value} is not allowed")),
        Value::Object(object) => object,
        other => panic!("{other} is no schema"),
    };
    let fits = |schema: &Value, value: &Value| validate(schema, value, root);
    for (keyword, wanted) in object {
        check(keyword, wanted, object, value, &fits)?;
        if keyword == "$ref" {
            let pointer = wanted.as_str().unwrap().trim_start_matches('#');
            fits(
                root.pointer(pointer)
                    .unwrap_or_else(|| panic!("{pointer} is not there")),
                value,
            )?;
        }
    }
    Ok(())
}

fn check(
    keyword: &str,
    wanted: &Value,
    schema: &Map<String, Value>,
    value: &Value,
    fits: &dyn Fn(&Value, &Value) -> Validity,
) -> Validity {
    let holds = |holds: bool| match holds {
        true => Ok(()),
        false => Err(format!("{value} against {keyword} {wanted}")),
    };
    let list = wanted.as_array().into_iter().flatten();
    let members = value.as_object();
    let number = |test: fn(f64, f64) -> bool| {
        value
            .as_f64()
            .is_none_or(|found| test(found, wanted.as_f64().unwrap()))
    };
    let count = |length: Option<usize>, test: fn(u64, u64) -> bool| {
        length.is_none_or(|length| test(length as u64, wanted.as_u64().unwrap()))
    };
    let length = value.as_array().map(Vec::len);
    match keyword {
        "type" => holds(match wanted {
            Value::Array(types) => types.iter().any(|one| is_type(value, one)),
            one => is_type(value, one),
        }),
        "const" => holds(value == wanted),
        "enum" => holds(list.into_iter().any(|one| one == value)),
        "minimum" => holds(number(|found, least| found >= least)),
        "maximum" => holds(number(|found, most| found <= most)),
        "exclusiveMaximum" => holds(number(|found, most| found < most)),
        "exclusiveMinimum" => holds(number(|found, least| found > least)),
        "minItems" => holds(count(length, |found, least| found >= least)),
        "maxItems" => holds(count(length, |found, most| found <= most)),
        "minLength" => holds(count(value.as_str().map(str::len), |found, least| {
            found >= least
        })),
        "minProperties" => holds(count(members.map(Map::len), |found, least| found >= least)),
        "maxProperties" => holds(count(members.map(Map::len), |found, most| found <= most)),
        "pattern" => {
            let pattern = Regex::new(wanted.as_str().unwrap()).unwrap();
            holds(value.as_str().is_none_or(|text| pattern.is_match(text)))
        }
        "required" => holds(
            list.into_iter()
                .all(|key| members.is_none_or(|keys| keys.contains_key(key.as_str().unwrap()))),
        ),
        "dependencies" => holds(wanted.as_object().unwrap().iter().all(|(key, others)| {
            let others: Vec<&str> = others
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect();
            members.is_none_or(|keys| {
                !keys.contains_key(key) || others.iter().all(|other| keys.contains_key(*other))
            })
        })),
        "properties" => (members.into_iter().flatten())
            .filter_map(|(key, value)| Some((wanted.get(key)?, value)))
            .try_for_each(|(schema, value)| fits(schema, value)),
        "additionalProperties" => (members.into_iter().flatten())
            .filter(|(key, _)| {
                schema
                    .get("properties")
                    .is_none_or(|known| known.get(key).is_none())
            })
            .try_for_each(|(key, value)| {
                fits(wanted, value).map_err(|error| format!("`{key}`: {error}"))
            }),
        "propertyNames" => {
            let names = members.into_iter().flatten();
            names
                .map(|(key, _)| Value::from(key.as_str()))
                .try_for_each(|key| fits(wanted, &key))
        }
        "items" => value
            .as_array()
            .into_iter()
            .flatten()
            .try_for_each(|item| fits(wanted, item)),
        "anyOf" => holds(list.into_iter().any(|one| fits(one, value).is_ok())),
        "oneOf" => holds(
            list.into_iter()
                .filter(|one| fits(one, value).is_ok())
                .count()
                == 1,
        ),
        "not" => holds(fits(wanted, value).is_err()),
        "if" => match fits(wanted, value) {
            Ok(()) => schema.get("then").map_or(Ok(()), |then| fits(then, value)),
            Err(_) => schema
                .get("else")
                .map_or(Ok(()), |other| fits(other, value)),
        },
        "then" | "else" | "$ref" | "$schema" | "title" | "description" | "default" => Ok(()),
        "x-taplo" | "definitions" => Ok(()),
        other => panic!("the schema uses {other}"),
    }
}

fn is_type(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("no type {other}"),
    }
}
