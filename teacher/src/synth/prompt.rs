//! Prompts as readable files: Jinja templates over a seed of the data.

use std::path::{Path, PathBuf};

use datasets::sample::{Message, Sample};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::TeacherError;
use crate::remote::request::hex_digest;

/// What a template over a seed can name: the fields of [`Variables`].
pub const VARIABLES: [&str; 3] = ["prompt", "completion", "messages"];

/// Steps of the template engine after which a template is taken for one without an end.
const FUEL: u64 = 1_000_000;

/// A prompt's file, read and checked. Written as JSON it is the digest of its text.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "PathBuf", into = "String")]
pub struct PromptFile {
    pub path: PathBuf,
    text: String,
}

/// What a template sees of a seed: its last question, what the data answers to it, and the conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variables {
    pub prompt: String,
    /// Empty where the data has none.
    pub completion: String,
    pub messages: Vec<Message>,
}

impl PromptFile {
    /// # Errors
    /// A file that cannot be read or is no template.
    pub fn read(path: &Path) -> Result<Self, TeacherError> {
        let failed = |problem: String| TeacherError::PromptFile {
            path: path.to_path_buf(),
            problem,
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let file = Self {
            path: path.to_path_buf(),
            text,
        };
        environment()
            .template_from_str(&file.text)
            .map_err(|error| failed(error.to_string()))?;
        Ok(file)
    }

    /// One that the program brings along; `name` is where it lies in the sources.
    pub fn built_in(name: &str, text: &str) -> Self {
        Self {
            path: name.into(),
            text: text.into(),
        }
    }

    /// # Errors
    /// A variable that is none of `variables`.
    pub fn check(&self, variables: &[&str]) -> Result<(), TeacherError> {
        let environment = environment();
        let template = environment
            .template_from_str(&self.text)
            .map_err(|error| self.failed(error.to_string()))?;
        let known: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
        let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        unknown
            .retain(|name| !known.contains(&name.as_str()) && !variables.contains(&name.as_str()));
        unknown.sort();
        match unknown.first() {
            None => Ok(()),
            Some(name) => Err(self.failed(format!(
                "unknown variable `{name}`; there are {}",
                variables.join(", ")
            ))),
        }
    }

    /// Whether the template looks at one of these variables.
    pub fn shows(&self, variables: &[&str]) -> bool {
        // The engine's own list lacks what stands in a slice.
        let tags = self.text.split('{').filter_map(|rest| {
            let end = rest.find('}')?;
            Some(&rest[..end])
        });
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        (tags.flat_map(|tag| tag.split(|c| !is_part(c)))).any(|word| variables.contains(&word))
    }

    /// # Errors
    /// What the template cannot do with these variables.
    pub fn render(&self, variables: &impl Serialize) -> Result<String, TeacherError> {
        environment()
            .render_str(&self.text, minijinja::Value::from_serialize(variables))
            .map_err(|error| {
                self.failed(match error.kind() {
                    ErrorKind::OutOfFuel => {
                        format!("it does not come to an end: {FUEL} steps are done\nhint: look at its loops")
                    }
                    _ => error.to_string(),
                })
            })
    }

    fn failed(&self, problem: String) -> TeacherError {
        TeacherError::PromptFile {
            path: self.path.clone(),
            problem,
        }
    }

    /// SHA-256 (hexadecimal) of the text.
    pub fn digest(&self) -> String {
        hex_digest(self.text.as_bytes())
    }
}

impl TryFrom<PathBuf> for PromptFile {
    type Error = TeacherError;

    fn try_from(path: PathBuf) -> Result<Self, TeacherError> {
        Self::read(&path)
    }
}

impl From<PromptFile> for String {
    fn from(file: PromptFile) -> Self {
        file.digest()
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment
}

impl Variables {
    /// Of a conversation, the turns before the last answer; `system` replaces what the data says as such.
    pub fn of(sample: &Sample, system: Option<&str>) -> Self {
        let (mut messages, completion) = match sample {
            Sample::Text(text) => (vec![Message::new("user", text)], String::new()),
            Sample::Completion { prompt, completion } => {
                (vec![Message::new("user", prompt)], completion.clone())
            }
            Sample::Conversation(turns) => {
                let last = turns.iter().rposition(|turn| turn.role == "assistant");
                let end = last.unwrap_or(turns.len());
                let completion = last.map_or_else(String::new, |at| turns[at].content.clone());
                (turns[..end].to_vec(), completion)
            }
        };
        if let Some(system) = system {
            messages.retain(|message| message.role != "system");
            messages.insert(0, Message::new("system", system));
        }
        Self::of_answer(&messages, &completion)
    }

    /// Of a conversation whose last answer stands apart.
    pub fn of_answer(prompt: &[Message], answer: &str) -> Self {
        let asked = prompt.iter().rfind(|message| message.role == "user");
        Self {
            prompt: asked.map_or_else(String::new, |message| message.content.clone()),
            completion: answer.to_owned(),
            messages: prompt.to_vec(),
        }
    }

    /// The conversation with its last question replaced.
    pub fn with_prompt(&self, prompt: String) -> Vec<Message> {
        let mut messages = self.messages.clone();
        match messages.iter_mut().rfind(|message| message.role == "user") {
            Some(message) => message.content = prompt,
            None => messages.push(Message::new("user", prompt)),
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<PromptFile, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let prompt = PromptFile::read(file.path()).map_err(|error| error.to_string())?;
        let checked = prompt.check(&VARIABLES);
        checked.map_err(|error| error.to_string()).map(|()| prompt)
    }

    #[test]
    fn templates_see_the_seed_and_are_checked_when_read() {
        let conversation = Sample::Conversation(vec![
            Message::new("system", "old"),
            Message::new("user", "one"),
            Message::new("assistant", "first"),
            Message::new("user", "<two>"),
            Message::new("assistant", "second"),
        ]);
        let variables = Variables::of(&conversation, Some("new"));
        let text =
            "{% for m in messages %}{{ m.role }} {% endfor %}\n{{ prompt }} {{ completion }}\n";
        let rendered = file(text).unwrap().render(&variables).unwrap();
        assert_eq!(rendered, "system user assistant user <two> second");
        let messages = variables.with_prompt("three".into());
        let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        assert_eq!(texts, ["new", "one", "first", "three"]);

        let prompt = file("completion {% if prompt %}{{ messages[:1] }}{% endif %}").unwrap();
        assert!(prompt.shows(&["messages"]) && !prompt.shows(&["completion"]));

        let error = file("{{ question }}").unwrap_err();
        assert!(
            error.contains("unknown variable `question`; there are prompt"),
            "{error}"
        );
        assert!(file("{% if %}").is_err());
        assert!(file("{% for i in range(3) %}{{ i }}{% endfor %}").is_ok());
        assert!(PromptFile::read(Path::new("no/such.jinja")).is_err());
    }

    #[test]
    fn plain_samples_are_questions() {
        let text = Variables::of(&Sample::Text("why?".into()), None);
        assert_eq!(text.messages, [Message::new("user", "why?")]);
        let pair = Sample::Completion {
            prompt: "why?".into(),
            completion: "so".into(),
        };
        let pair = Variables::of(&pair, None);
        assert_eq!(
            (pair.prompt.as_str(), pair.completion.as_str()),
            ("why?", "so")
        );
    }
}
