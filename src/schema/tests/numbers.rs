//! The ends of ranges: a number that the program refuses for itself the schema refuses, and no other.

use super::*;
use crate::recipe::text_of_key;

/// Every number that no recipe sets.
const OTHERS: &str = "src/schema/tests/numbers.toml";

/// A part of what the program says where it refuses a number that the schema lets pass, and why the schema cannot see it.
const UNSEEN: [(&str, &str); 23] = [
    ("must be a multiple of `sequence_length`", ANOTHER),
    ("is more than `steps`", ANOTHER),
    ("must divide the ", ANOTHER),
    ("must be less than `sequence_length`", ANOTHER),
    ("`high_from` is above 1 and at most 5", ANOTHER),
    ("several `candidates` at temperature 0", ANOTHER),
    ("`samples` beyond 1 are all the same", ANOTHER),
    ("`labelled` is twice the `folds`", ANOTHER),
    ("needs `shots`", ANOTHER),
    ("`bands` must divide `permutations`", ANOTHER),
    ("every loss has weight 0", ANOTHER),
    ("`stride` must lie between 1 and `window`", ANOTHER),
    ("`generated_shots` is a part of `shots`", ANOTHER),
    ("`min_words` is at most `max_words`", ANOTHER),
    ("is above `max_", ANOTHER),
    ("`gptq` holds integers of", ANOTHER),
    ("but the targets are captured with", ANOTHER),
    ("but `fresh` sees", ANOTHER),
    ("layers are listed in rising order", ANOTHER),
    (
        "and 1 - 1e-6",
        "an end is accepted, and what f32 cannot tell from it is not",
    ),
    (
        "`keep` must be a multiple of 32",
        "whole numbers count channels",
    ),
    ("`keep` as a share", "only broken numbers are shares"),
    (
        "`clip_norm` must be above 0",
        "JSON has null for NaN and for `inf`",
    ),
];
const ANOTHER: &str = "another key has a part in it";

fn texts() -> Vec<(PathBuf, String)> {
    let others = std::fs::read_to_string(OTHERS).unwrap();
    let mut texts = recipes();
    texts.push((OTHERS.into(), others));
    texts
}

/// A value for each of these stands in for a range: its ends, what lies beyond them, and what no number can be.
fn probes(schema: &Value) -> Vec<toml::Value> {
    let mut found: Vec<toml::Value> = [-1, 0, 1, 2, 1 << 32, i64::MAX].map(Into::into).to_vec();
    let floats = [-0.5, 0.5, 1.0, 1e300, f64::INFINITY, f64::NAN];
    found.extend(floats.map(toml::Value::Float));
    for end in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
        let Some(end) = schema[end].as_f64() else {
            continue;
        };
        if end == end.trunc() && end.abs() < 1e15 {
            found.extend([-1, 0, 1].map(|step| toml::Value::Integer(end as i64 + step)));
        }
        let step = (end.abs() * 1e-6).max(1e-40);
        found.extend([end - step, end, end + step].map(toml::Value::Float));
    }
    found
}

/// Every number of a recipe set to each of its probes, with its place. Presets are laid over by the same types.
fn changes(
    value: &toml::Value,
    path: &[&str],
    ends: &dyn Fn(&str) -> Vec<toml::Value>,
) -> Vec<(String, toml::Value)> {
    let mut found = Vec::new();
    match value {
        toml::Value::Table(table) => {
            for (key, inner) in table {
                // A model's shape is of its family, and the schema knows no more than its keys.
                if path.is_empty() && key == "preset"
                    || path.ends_with(&["source"]) && key == "config"
                {
                    continue;
                }
                let path = [path, &[key.as_str()]].concat();
                for (place, changed) in changes(inner, &path, ends) {
                    let mut table = table.clone();
                    table.insert(key.clone(), changed);
                    found.push((format!(".{key}{place}"), table.into()));
                }
            }
        }
        toml::Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                for (place, changed) in changes(inner, path, ends) {
                    let mut list = list.clone();
                    list[i] = changed;
                    found.push((format!(".{i}{place}"), list.into()));
                }
            }
        }
        toml::Value::Integer(_) | toml::Value::Float(_) => {
            let key = path.last().copied().unwrap_or_default();
            found.extend(
                ends(key)
                    .into_iter()
                    .map(|probe| (format!(" = {probe}"), probe)),
            );
        }
        _ => {}
    }
    found
}

/// All that the program has against a recipe.
fn problems(path: &Path, text: &str) -> Vec<String> {
    match Recipe::parse(path, text, None, &[]) {
        Ok(_) => Vec::new(),
        Err(LoadError::Invalid(errors)) => {
            let messages = errors.into_iter().map(|error| error.problem.message);
            messages.collect()
        }
        Err(error) => vec![error.to_string()],
    }
}

/// Keys that take numbers.
fn numbers(schema: &Value) -> Vec<Key> {
    let definitions = schema["definitions"].as_object().unwrap();
    let is_number = |key: &Key| accepted(&key.schema, definitions).contains("number");
    keys(schema).into_iter().filter(is_number).collect()
}

#[test]
fn every_number_is_in_a_recipe_that_is_probed() {
    let texts = texts();
    let numbers = numbers(&recipe_schema());
    let is_set = |key: &&Key| {
        let found = |text: &str| text_of_key(text, &key.path, &key.choices).is_some();
        texts.iter().any(|(_, text)| found(text))
    };
    let set: Vec<&Key> = numbers.iter().filter(is_set).collect();
    // Stages share tables.
    let is_known = |key: &&Key| {
        set.iter()
            .any(|known| known.name() == key.name() && known.schema == key.schema)
    };
    let missing: Vec<String> = (numbers.iter().filter(|key| !is_known(key)))
        .map(|key| format!("{} {:?}", key.dotted(), key.choices))
        .collect();
    assert!(missing.is_empty(), "no recipe sets\n{}", missing.join("\n"));
    assert!(set.len() > 150, "{}", set.len());
}

#[test]
fn schema_and_program_agree_on_the_ends_of_ranges() {
    let schema = recipe_schema();
    let numbers = numbers(&schema);
    let ends = |name: &str| {
        let named = numbers.iter().filter(|key| key.name() == name);
        let mut all: Vec<toml::Value> = Vec::new();
        for key in named {
            for schema in [&key.schema, &key.schema["items"]] {
                for probe in probes(schema) {
                    let is_known = |known: &toml::Value| known.to_string() == probe.to_string();
                    if !all.iter().any(is_known) {
                        all.push(probe);
                    }
                }
            }
        }
        all
    };
    let (mut refused, mut accepted, mut differing) = (0, 0, Vec::new());
    for (path, text) in texts() {
        let whole: toml::Value = toml::Value::Table(toml::from_str(&text).unwrap());
        assert_eq!(problems(&path, &text), [""; 0], "{}", path.display());
        for (what, changed) in changes(&whole, &[], &ends) {
            let toml::Value::Table(table) = &changed else {
                continue;
            };
            let place = format!("{}: {what}", path.display());
            let by_schema = objection(&schema, table);
            let text = toml::to_string(table).unwrap();
            let by_program = problems(&path, &text);
            match (by_schema, by_program.as_slice()) {
                (Some(_), [_, ..]) => refused += 1,
                (None, []) => accepted += 1,
                (Some(schema), []) => {
                    differing.push(format!("{place}: only the schema refuses it: {schema}"));
                }
                (None, found) => {
                    accepted += 1;
                    let is_unseen =
                        |says: &&String| UNSEEN.iter().any(|(part, _)| says.contains(part));
                    let seen = found.iter().find(|says| !is_unseen(says));
                    differing.extend(
                        seen.map(|says| format!("{place}: only the program refuses it: {says}")),
                    );
                }
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
        refused > 5000 && accepted > 3000,
        "{refused} refused by both, {accepted} let pass"
    );
}
