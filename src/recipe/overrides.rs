//! Presets and `--set`: values laid over a recipe before it is read.
//!
//! Both address a stage by its `as` name, by its kind where only one stage has that kind, or by
//! its number in the chain counted from 1: `stage.student.steps = 10`, `data.train.limit = 50`.

use super::document::{Document, Entry, Node, Value, parse_at};
use super::problem::Problem;
use super::read::KIND;

/// Takes the `preset` table out of the recipe.
pub fn take_presets(root: &mut Node) -> Result<Vec<Entry>, Problem> {
    let Value::Table(entries) = &mut root.value else {
        return Ok(Vec::new());
    };
    let Some(at) = entries.iter().position(|entry| entry.key == "preset") else {
        return Ok(Vec::new());
    };
    match entries.remove(at).node {
        Node {
            value: Value::Table(presets),
            ..
        } => Ok(presets),
        node => Err(Problem::new("`preset` is not a table").at(node.span)),
    }
}

/// Lays the preset called `name` over the recipe.
pub fn apply_preset(root: &mut Node, presets: &[Entry], name: &str) -> Result<(), Problem> {
    let Some(preset) = presets.iter().find(|preset| preset.key == name) else {
        let problem = Problem::new(format!("this recipe has no preset `{name}`"));
        let problem = problem.accepting(name, presets.iter().map(|preset| &preset.key));
        return Err(match presets {
            [] => problem.hint("it declares none: leave `--preset` out"),
            _ => problem,
        });
    };
    apply(root, &preset.node)
}

/// Lays one `--set key=value` over the recipe.
pub fn apply_set(root: &mut Node, document: &mut Document, flag: &str) -> Result<(), Problem> {
    let start = document.add_flag("--set", flag);
    let Some((key, value)) = flag.split_once('=') else {
        return Err(Problem::new("`--set` takes key=value")
            .at(start..start + flag.len())
            .hint("for example --set stage.student.steps=10"));
    };
    let overlay = if toml::de::DeValue::parse(value.trim()).is_ok() {
        parse_at(start, flag)?
    } else {
        // What is no TOML value is a string without its quotes, as a shell leaves it.
        let mut overlay = parse_at(start, &format!("{key}=0"))?;
        let text = Node {
            span: start + key.len() + 1..start + flag.len(),
            value: Value::String(value.trim().to_string()),
        };
        *leaf(&mut overlay) = text;
        overlay
    };
    apply(root, &overlay)
}

/// The value at the end of a dotted key.
fn leaf(node: &mut Node) -> &mut Node {
    if !matches!(&node.value, Value::Table(entries) if !entries.is_empty()) {
        return node;
    }
    let Value::Table(entries) = &mut node.value else {
        unreachable!("seen to be a table");
    };
    leaf(&mut entries[0].node)
}

fn apply(root: &mut Node, overlay: &Node) -> Result<(), Problem> {
    let not_a_table = |node: &Node, key: &str| {
        Problem::new(format!("`{key}` takes a table of overrides")).at(node.span.clone())
    };
    let entries = overlay
        .table()
        .ok_or_else(|| not_a_table(overlay, "preset"))?;
    for entry in entries {
        let sections = (entry.node.table()).ok_or_else(|| not_a_table(&entry.node, &entry.key));
        match entry.key.as_str() {
            "seed" => merge(child(root, entry), &entry.node),
            "models" | "data" => {
                let declared = child(root, entry);
                for named in sections? {
                    if declared.get(&named.key).is_none() && named.node.get("source").is_none() {
                        return Err(unknown(&entry.key, named, names_of(declared)));
                    }
                    merge(child(declared, named), &named.node);
                }
            }
            "stage" => {
                for named in sections? {
                    let stage = find_stage(root, named)?;
                    merge(stage, &named.node);
                }
            }
            other => {
                return Err(Problem::new(format!("`{other}` cannot be overridden"))
                    .accepting(other, ["seed", "models", "data", "stage"])
                    .at(entry.key_span.clone()));
            }
        }
    }
    Ok(())
}

/// Deep merge: tables are joined key by key, everything else is replaced, and so is a table of
/// another `kind`.
fn merge(base: &mut Node, overlay: &Node) {
    let kind = |node: &Node| node.get(KIND).and_then(Node::string).map(str::to_string);
    let other_kind = kind(overlay).is_some_and(|new| kind(base).is_none_or(|old| old != new));
    match overlay.table() {
        Some(entries) if base.table().is_some() && !other_kind => {
            for entry in entries {
                merge(child(base, entry), &entry.node);
            }
        }
        _ => *base = overlay.clone(),
    }
}

/// The value under the entry's key, which is put there if the table lacks it.
fn child<'a>(table: &'a mut Node, entry: &Entry) -> &'a mut Node {
    if !matches!(table.value, Value::Table(_)) {
        table.value = Value::Table(Vec::new());
    }
    let Value::Table(entries) = &mut table.value else {
        unreachable!("made a table above");
    };
    let at = (entries.iter().position(|e| e.key == entry.key)).unwrap_or_else(|| {
        entries.push(Entry {
            node: Node {
                span: entry.node.span.clone(),
                value: Value::Table(Vec::new()),
            },
            ..entry.clone()
        });
        entries.len() - 1
    });
    &mut entries[at].node
}

fn find_stage<'a>(root: &'a mut Node, named: &Entry) -> Result<&'a mut Node, Problem> {
    let stages = match &mut root.value {
        Value::Table(entries) => entries.iter_mut().find(|entry| entry.key == "stage"),
        _ => None,
    };
    let Some(Value::Array(stages)) = stages.map(|entry| &mut entry.node.value) else {
        return Err(Problem::new("this recipe has no stages").at(named.key_span.clone()));
    };
    let all = |key: &str| -> Vec<Option<String>> {
        (stages.iter())
            .map(|stage| stage.get(key).and_then(Node::string).map(str::to_string))
            .collect()
    };
    let (names, kinds) = (all("as"), all(KIND));
    let key = &named.key;
    let having = |values: &[Option<String>]| -> Vec<usize> {
        let same = |value: &Option<String>| value.as_ref() == Some(key);
        (0..values.len()).filter(|&i| same(&values[i])).collect()
    };
    let number = key.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    let found = match (having(&names).first(), having(&kinds).as_slice()) {
        (Some(&at), _) => at,
        (None, &[at]) => at,
        (None, []) => match number.filter(|&at| at < stages.len()) {
            Some(at) => at,
            None => {
                let known = names.iter().flatten().chain(kinds.iter().flatten());
                let mut accepted: Vec<String> = known.cloned().collect();
                accepted.sort();
                accepted.dedup();
                accepted.push(format!("1 to {}", stages.len()));
                return Err(unknown("stage", named, accepted));
            }
        },
        (None, several) => {
            let accepted = several
                .iter()
                .map(|&at| names[at].clone().unwrap_or_else(|| (at + 1).to_string()));
            return Err(
                Problem::new(format!("{} stages are of kind `{key}`", several.len()))
                    .accepting("", accepted)
                    .at(named.key_span.clone())
                    .hint("name the stage by its `as` or by its number in the chain"),
            );
        }
    };
    Ok(&mut stages[found])
}

fn unknown(what: &str, named: &Entry, accepted: Vec<String>) -> Problem {
    Problem::new(format!("no {what} `{}` to override", named.key))
        .accepting(&named.key, accepted)
        .at(named.key_span.clone())
}

fn names_of(table: &Node) -> Vec<String> {
    let entries = table.table().unwrap_or_default();
    entries.iter().map(|entry| entry.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"
        [data.train]
        source = "a.txt"
        [[stage]]
        kind = "sft"
        steps = 100
        optimizer = { kind = "adamw", lr = 1e-3 }
        as = "student"
        [[stage]]
        kind = "eval"
        [[stage]]
        kind = "eval"
        [preset.short]
        stage.student.steps = 2
        stage.student.optimizer.lr = 1e-2
        data.train.limit = 50
        seed = 3
        [preset.wrong]
        stage.studnet.steps = 1
    "#;

    fn overridden(preset: Option<&str>, sets: &[&str]) -> Result<Node, String> {
        let mut document = Document::default();
        let mut root = document.parse("r.toml", RECIPE).unwrap();
        let presets = take_presets(&mut root).unwrap();
        preset
            .map_or(Ok(()), |name| apply_preset(&mut root, &presets, name))
            .and_then(|()| {
                (sets.iter()).try_for_each(|set| apply_set(&mut root, &mut document, set))
            })
            .map_err(|problem| document.error(problem).to_string())?;
        Ok(root)
    }

    fn at<'a>(root: &'a Node, path: &str) -> &'a Value {
        let step = |node: &'a Node, key: &str| match &node.value {
            Value::Array(items) => &items[key.parse::<usize>().unwrap()],
            _ => node.get(key).unwrap(),
        };
        &path.split('.').fold(root, step).value
    }

    #[test]
    fn a_preset_is_merged_deeply() {
        let root = overridden(Some("short"), &[]).unwrap();
        assert!(matches!(at(&root, "stage.0.steps"), Value::Integer(2)));
        assert!(matches!(at(&root, "stage.0.optimizer.lr"), Value::Float(lr) if *lr == 1e-2));
        assert!(matches!(
            at(&root, "stage.0.optimizer.kind"),
            Value::String(_)
        ));
        assert!(matches!(at(&root, "data.train.limit"), Value::Integer(50)));
        assert!(matches!(at(&root, "seed"), Value::Integer(3)));
        assert!(root.get("preset").is_none());
    }

    #[test]
    fn set_comes_last_and_takes_bare_strings() {
        let sets = [
            "stage.sft.steps=7",
            "data.train.source=b/c.txt",
            "stage.3.window=8",
        ];
        let root = overridden(Some("short"), &sets).unwrap();
        assert!(matches!(at(&root, "stage.0.steps"), Value::Integer(7)));
        assert!(matches!(at(&root, "data.train.source"), Value::String(s) if s == "b/c.txt"));
        assert!(matches!(at(&root, "stage.2.window"), Value::Integer(8)));
    }

    #[test]
    fn another_kind_replaces_the_table() {
        let sets = ["stage.student.optimizer={kind=\"sgd\"}"];
        let root = overridden(None, &sets).unwrap();
        let optimizer = root.get("stage").unwrap();
        let Value::Array(stages) = &optimizer.value else {
            panic!()
        };
        assert!(stages[0].get("optimizer").unwrap().get("lr").is_none());
    }

    #[test]
    fn wrong_addresses_are_explained() {
        for (preset, set, wanted) in [
            (Some("shrot"), None, "no preset `shrot`"),
            (
                Some("shrot"),
                None,
                "accepted: short, wrong\nhint: did you mean `short`?",
            ),
            (Some("wrong"), None, "hint: did you mean `student`?"),
            (
                None,
                Some("stage.eval.window=1"),
                "2 stages are of kind `eval`",
            ),
            (None, Some("stage.eval.window=1"), "accepted: 2, 3"),
            (
                None,
                Some("stage.9.window=1"),
                "--> --set stage.9.window=1:1:7",
            ),
            (None, Some("data.trian.limit=1"), "did you mean `train`?"),
            (None, Some("sead=1"), "did you mean `seed`?"),
            (None, Some("steps"), "takes key=value"),
            (None, Some("stage=1"), "`stage` takes a table"),
        ] {
            let sets: Vec<&str> = set.into_iter().collect();
            let error = overridden(preset, &sets).unwrap_err();
            assert!(error.contains(wanted), "{preset:?} {set:?}\n{error}");
        }
    }
}
