//! A recipe as text: as its file has it, and as presets and `--set` left it. Secrets are starred out.

use super::Recipe;
use super::document::{Entry, Node, Value};
use super::secret::{is_secret, masked};

impl Recipe {
    /// The file's text.
    pub fn as_written(&self) -> String {
        masked(self.document.file())
    }

    /// TOML that says what was run, without presets.
    pub fn as_run(&self) -> String {
        let mut text = String::new();
        for section in self.root.table().unwrap_or_default() {
            match (section.key.as_str(), &section.node.value) {
                ("stage", Value::Array(stages)) => {
                    for stage in stages {
                        text += "\n[[stage]]\n";
                        text += &lines(stage);
                    }
                }
                (name, Value::Table(named)) => {
                    for item in named {
                        text += &format!("\n[{name}.{}]\n{}", key(&item.key), lines(&item.node));
                    }
                }
                _ => text += &line(section),
            }
        }
        masked(text.trim_start())
    }
}

fn lines(table: &Node) -> String {
    let entries = table.table().unwrap_or_default();
    entries.iter().map(line).collect()
}

fn line(entry: &Entry) -> String {
    format!("{} = {}\n", key(&entry.key), value_of(entry))
}

fn value_of(entry: &Entry) -> String {
    match &entry.node.value {
        Value::String(text) if is_secret(&entry.key) => scalar("*".repeat(text.len()).into()),
        other => value(other),
    }
}

fn value(of: &Value) -> String {
    match of {
        Value::String(text) => scalar(text.clone().into()),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => scalar((*number).into()),
        Value::Boolean(is) => is.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| value(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(entries) if entries.is_empty() => "{}".to_string(),
        Value::Table(entries) => {
            let pairs = entries.iter();
            let pairs = pairs.map(|entry| format!("{} = {}", key(&entry.key), value_of(entry)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn scalar(value: toml::Value) -> String {
    value.to_string()
}

fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_string(),
        false => scalar(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TEXT: &str = r#"# key = "sk-1", a password of "b"
seed = 3
[models.m]
source = { kind = "remote", model = "a \"b\"", endpoints = ["http://h/v1"], key = { env = "K" } }
[data.d]
source = "Cargo.toml"
limit = 9
[data.e]
source = { kind = "https", url = "https://user:pass@h/e.txt", sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }
[[stage]]
kind = "generate"
teacher = "m"
prompts = "d"
system = "one\ntwo"
sampling = { temperature = 0.5, max_tokens = 8 }
[preset.short]
data.d.limit = 2
"#;

    #[test]
    fn what_was_run_is_a_recipe_that_runs_the_same() {
        let path = Path::new("r.toml");
        let sets = ["stage.generate.sampling.max_tokens=4".to_string()];
        let recipe = Recipe::parse(path, TEXT, Some("short"), &sets).unwrap();
        let text = recipe.as_run();
        let again = Recipe::parse(path, &text, None, &[]).unwrap();
        assert_eq!(again.as_run(), text);
        let json = |recipe: &Recipe| serde_json::to_value(&recipe.stages[0].action).unwrap();
        assert_eq!(json(&again), json(&recipe));
        assert_eq!(again.data["d"].limit, Some(2));
        assert!(
            text.contains("max_tokens = 4") && !text.contains("preset"),
            "{text}"
        );
        for text in [text, recipe.as_written()] {
            assert!(text.contains("https://*********@h/e.txt"), "{text}");
            assert!(!text.contains("pass@") && !text.contains("sk-1"), "{text}");
        }
    }

    #[test]
    fn every_shipped_recipe_is_written_so_that_it_reads_the_same() {
        for entry in std::fs::read_dir("recipes").unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let recipe = Recipe::load(&path, None, &[]).unwrap();
            let again = Recipe::parse(&path, &recipe.as_run(), None, &[]).unwrap();
            for (a, b) in recipe.stages.iter().zip(&again.stages) {
                let [a, b] = [a, b].map(|stage| serde_json::to_value(&stage.action).unwrap());
                assert_eq!(a, b, "{}", path.display());
            }
        }
    }
}
