//! Which keys a word can mean, and which of them are the same.

use super::Book;
use crate::recipe::closest;
use crate::schema::{Key, UnknownKey};

const NO_HINT: &str =
    "`distill explain` alone lists the sections of a recipe and the kinds of stages";

impl<'a> Book<'a> {
    /// The keys that can be meant. Those that are the same in several places are one group.
    pub(super) fn meant(&self, key: &str) -> Result<Vec<Vec<&'a Key>>, UnknownKey> {
        let words: Vec<&str> = key.split('.').filter(|word| !word.is_empty()).collect();
        let groups = self.groups(&words);
        if !groups.is_empty() {
            return Ok(groups);
        }
        // As `--set` has it: `stage.student.steps`, where `student` is a name of the recipe's own.
        let groups = match words.as_slice() {
            [section @ ("stage" | "data" | "models"), _, inner @ ..] if !inner.is_empty() => {
                self.groups(&[&[*section], inner].concat())
            }
            _ => Vec::new(),
        };
        match groups.is_empty() {
            true => Err(self.unknown(key, &words)),
            false => Ok(groups),
        }
    }

    fn groups(&self, words: &[&str]) -> Vec<Vec<&'a Key>> {
        let mut groups: Vec<Vec<&Key>> = Vec::new();
        for key in self.all.iter().filter(|key| key.is_meant(words)) {
            match groups.iter_mut().find(|group| self.is_same(group[0], key)) {
                Some(group) => group.push(key),
                None => groups.push(vec![key]),
            }
        }
        groups
    }

    fn is_same(&self, a: &Key, b: &Key) -> bool {
        let same = |key: &str| a.schema[key] == b.schema[key];
        same("description") && same("default") && self.accepted(a) == self.accepted(b)
    }

    fn unknown(&self, key: &str, words: &[&str]) -> UnknownKey {
        let mut known: Vec<String> = self.all.iter().map(|key| key.name().to_string()).collect();
        known.sort();
        known.dedup();
        let last = &words.last().copied().unwrap_or_default().to_lowercase();
        let is_known = known.iter().any(|name| name == last);
        let hint = match closest(last, &known) {
            _ if is_known => {
                let places = self.all.iter().filter(|key| key.name() == last);
                let mut places: Vec<String> = places.map(Key::dotted).collect();
                places.dedup();
                format!("`{last}` stands in {}", places.join(", "))
            }
            Some(near) => format!("did you mean `{near}`?"),
            None if last.is_empty() => NO_HINT.to_string(),
            None => {
                let phrase = last.replace(['_', '-'], " ").to_lowercase();
                let speaks = |key: &&Key| {
                    let says = key.schema["description"].as_str().unwrap_or_default();
                    let says = says.to_lowercase();
                    let mut said =
                        says.split(|letter: char| !letter.is_alphanumeric() && letter != ' ');
                    phrase.len() > 2
                        && said.any(|said| format!(" {said} ").contains(&format!(" {phrase} ")))
                };
                let mut about: Vec<&str> = self.all.iter().filter(speaks).map(Key::name).collect();
                about.sort();
                about.dedup();
                match about.as_slice() {
                    [] => NO_HINT.to_string(),
                    about => format!("of this speak: {}", about.join(", ")),
                }
            }
        };
        UnknownKey {
            key: key.to_string(),
            hint,
        }
    }

    /// The keys of a table, each once, with the choices that it belongs to.
    pub(super) fn inner(&self, table: &Key) -> Vec<(&'a Key, Vec<&'a str>)> {
        let depth = table.path.len();
        let below = |key: &&Key| key.path.len() == depth + 1 && key.path.starts_with(&table.path);
        let mut found: Vec<(&Key, Vec<&str>)> = Vec::new();
        for key in self
            .all
            .iter()
            .filter(below)
            .filter(|_| depth > 1 || table.path[0] != "stage")
        {
            let chosen = key.choices.last().map(|(_, name)| name.as_str());
            match found
                .iter_mut()
                .find(|(known, _)| known.name() == key.name() && self.is_same(known, key))
            {
                Some((_, names)) => names.extend(chosen),
                None => found.push((key, chosen.into_iter().collect())),
            }
        }
        // What belongs to all choices needs no mention of them.
        let tags = found
            .iter()
            .filter_map(|(key, _)| key.schema["enum"].as_array().map(Vec::len));
        let choices = tags.max().unwrap_or(0);
        for (_, names) in &mut found {
            if names.len() == choices {
                names.clear();
            }
        }
        found
    }
}
