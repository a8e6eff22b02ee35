use std::path::{Path, PathBuf};

use serde_json::Value;

use self::validator::validate;
use super::*;
use crate::recipe::{LoadError, Recipe};

mod numbers;
mod validator;

const COMMITTED: &str = "recipes/recipe.schema.json";

fn recipes() -> Vec<(PathBuf, String)> {
    let folder = std::fs::read_dir("recipes").unwrap();
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    paths.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// What a validator has against a recipe.
fn objection(schema: &Value, recipe: &toml::Table) -> Option<String> {
    validate(schema, &serde_json::to_value(recipe).unwrap(), schema).err()
}

/// What the program has against a recipe or one of its presets.
struct Refusal {
    says: String,
    by_preset: bool,
}

fn refusal(path: &Path, text: &str) -> Option<Refusal> {
    let refused = |error: LoadError, by_preset| Refusal {
        says: error.to_string(),
        by_preset,
    };
    match Recipe::parse(path, text, None, &[]) {
        Err(error) => Some(refused(error, false)),
        Ok(recipe) => recipe.presets.iter().find_map(|preset| {
            let error = Recipe::parse(path, text, Some(preset), &[]).err()?;
            Some(refused(error, true))
        }),
    }
}

#[test]
fn the_committed_schema_is_that_of_the_program() {
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(
        committed == schema_text(),
        "{COMMITTED} is not what the program reads: renew it with\n  cargo run --release -- schema > {COMMITTED}"
    );
}

#[test]
fn every_key_says_what_it_means() {
    let schema = recipe_schema();
    for key in keys(&schema) {
        let place = format!("{} {:?}", key.dotted(), key.choices);
        let says = key.schema["description"].as_str().unwrap_or_default();
        assert!(!says.is_empty(), "{place} has no doc comment");
        assert!(
            !says.contains("[`") && !says.contains("::"),
            "{place} speaks of the code: {says}"
        );
    }
}

/// A table that takes any key would let a misspelt one pass.
#[test]
fn every_table_is_closed() {
    fn check(schema: &Value, place: &str) {
        if schema["properties"].is_object() && schema["type"] == "object" {
            let is_choice =
                schema["required"].is_array() && schema["additionalProperties"].is_null();
            let only = schema["properties"]
                .as_object()
                .is_some_and(|keys| keys.len() == 1);
            assert!(
                schema["additionalProperties"] == false || is_choice && only,
                "{place}: {schema}"
            );
        }
        match schema {
            Value::Object(inner) => inner
                .iter()
                .for_each(|(key, one)| check(one, &format!("{place}.{key}"))),
            Value::Array(inner) => inner.iter().for_each(|one| check(one, place)),
            _ => {}
        }
    }
    check(&recipe_schema(), "");
}

#[test]
fn every_recipe_fits_its_schema_and_names_it() {
    let schema = recipe_schema();
    for (path, text) in recipes() {
        let path = path.display();
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(
            first, "#:schema ./recipe.schema.json",
            "the first line of {path}"
        );
        let objection = objection(&schema, &toml::from_str(&text).unwrap());
        assert_eq!(objection, None, "{path}");
    }
}

/// Every recipe with each of its keys misspelt, of another type, of another name, and missing: the schema refuses what the
/// program cannot read, and nothing that it can.
#[test]
fn schema_and_program_agree() {
    let schema = recipe_schema();
    let (mut refused, mut accepted, mut differing) = (0, 0, Vec::new());
    for (path, text) in recipes() {
        let whole: toml::Value = toml::Value::Table(toml::from_str(&text).unwrap());
        assert!(refusal(&path, &text).is_none(), "{}", path.display());
        for (what, changed) in changes(&whole) {
            let toml::Value::Table(table) = &changed else {
                continue;
            };
            let place = format!("{}: {what}", path.display());
            let by_schema = objection(&schema, table);
            let by_program = refusal(&path, &toml::to_string(table).unwrap());
            match (by_schema, by_program) {
                (Some(_), Some(_)) => refused += 1,
                (None, None) => accepted += 1,
                (Some(schema), None) => {
                    differing.push(format!("{place}: only the schema refuses it: {schema}"));
                }
                (None, Some(program)) if is_of_form(&program) => {
                    let says = program.says;
                    differing.push(format!("{place}: only the program refuses it: {says}"));
                }
                (None, Some(_)) => accepted += 1,
            }
        }
    }
    assert!(
        differing.is_empty(),
        "{} differ:\n{}",
        differing.len(),
        differing.join("\n")
    );
    assert!(
        refused > 1000 && accepted > 500,
        "{refused} refused by both, {accepted} let pass"
    );
}

/// Whether what is wrong is a key, a type or a name, all of which a schema can see.
fn is_of_form(Refusal { says, by_preset }: &Refusal) -> bool {
    // What is missing of a table and of what a preset lays over it, the schema cannot know.
    let is_laid_over = *by_preset && says.starts_with("missing key");
    let form = ["unknown key", "unknown value", "expected ", "missing key"];
    form.iter().any(|start| says.starts_with(start)) && !is_laid_over
}

/// One change at a time, with the place and the kind of the change.
fn changes(value: &toml::Value) -> Vec<(String, toml::Value)> {
    let mut found = Vec::new();
    match value {
        toml::Value::Table(table) => {
            let mut misspelt = table.clone();
            misspelt.insert("misspelt".into(), 1.into());
            found.push((" + misspelt".to_string(), misspelt.into()));
            for (key, inner) in table {
                let mut without = table.clone();
                without.remove(key);
                found.push((format!(" - {key}"), without.into()));
                for (what, changed) in changes(inner) {
                    let mut table = table.clone();
                    table.insert(key.clone(), changed);
                    found.push((format!(".{key}{what}"), table.into()));
                }
            }
        }
        toml::Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                for (what, changed) in changes(inner) {
                    let mut list = list.clone();
                    list[i] = changed;
                    found.push((format!(".{i}{what}"), list.into()));
                }
            }
            found.push((" = true".into(), true.into()));
        }
        toml::Value::String(_) => {
            found.push((" = another name".into(), "no such name!".into()));
            found.push((" = true".into(), true.into()));
        }
        toml::Value::Boolean(_) => found.push((" = text".into(), "yes".into())),
        _ => {
            found.push((" = text".into(), "many".into()));
            found.push((" = -3".into(), toml::Value::Integer(-3)));
        }
    }
    found
}
