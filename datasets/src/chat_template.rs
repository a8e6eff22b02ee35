//! Chat templates: Jinja as Hugging Face models write it.

use std::fmt;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::jinja::{format_time, format_value, to_json, without_generation_blocks};
use crate::sample::Message;
use crate::tokenizer::Tokenizer;

const NAME: &str = "chat_template";
/// 2024-07-26 00:00 UTC: the day that Llama 3's own template falls back to.
const DEFAULT_TIME: i64 = 1_721_952_000;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` and so on, as templates name them.
    special: Vec<(&'static str, String)>,
    source: String,
    time: i64,
}

impl ChatTemplate {
    /// Compiles a template. `special` are the texts of the special tokens, e.g. `("eos_token", "<|im_end|>")`.
    pub fn new(source: &str, special: Vec<(&'static str, String)>) -> Result<Self, DataError> {
        Self::at(source, special, DEFAULT_TIME)
    }

    /// As [`Self::new`], with the time that `strftime_now` sees, in seconds since 1970 UTC. The default is a fixed day:
    /// a recipe has to give the same tokens tomorrow.
    pub fn at(
        source: &str,
        special: Vec<(&'static str, String)>,
        time: i64,
    ) -> Result<Self, DataError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(format_value);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_function("strftime_now", move |format: String| {
            format_time(&format, time)
        });
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_blocks(source))
            .map_err(|e| template_error(&e))?;
        Ok(Self {
            environment,
            special,
            source: source.to_string(),
            time,
        })
    }

    /// Whether the template looks at the conversation at all.
    pub fn shows_messages(&self) -> bool {
        self.source.contains("messages")
    }

    /// The template that a tokenizer carries, if it does.
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<Self>, DataError> {
        (tokenizer.chat_template())
            .map(|source| Self::with_tokens_of(source, tokenizer))
            .transpose()
    }

    /// Another template for the model of this tokenizer, which gives the texts of the special tokens.
    pub fn with_tokens_of(source: &str, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let special = [
            ("bos_token", tokenizer.bos_id()),
            ("eos_token", tokenizer.eos_ids().first().copied()),
            ("pad_token", tokenizer.pad_id()),
            ("unk_token", tokenizer.unk_id()),
        ];
        let special = special
            .into_iter()
            .filter_map(|(key, id)| Some((key, tokenizer.token(id?)?)))
            .collect();
        Self::new(source, special)
    }

    /// The text of a conversation; `add_generation_prompt` appends what opens the assistant's next turn.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| template_error(&e))?;
        let special: Value = self
            .special
            .iter()
            .map(|(k, v)| (*k, Value::from(v.as_str())))
            .collect();
        let context =
            context! { messages, add_generation_prompt, tools => (), documents => (), ..special };
        template.render(context).map_err(|e| template_error(&e))
    }

    /// SHA-256 (hexadecimal) of all that decides the rendered text.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.source);
        hash.update(format!("{:?} {}", self.special, self.time));
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("ChatTemplate")
            .field(&self.source)
            .finish()
    }
}

fn template_error(error: &Error) -> DataError {
    let line = error
        .line()
        .map(|l| format!(" (line {l})"))
        .unwrap_or_default();
    DataError::Template {
        found: format!("{error}{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, DataError> {
        let messages = [
            Message::new("user", "hi <b>"),
            Message::new("assistant", "yo"),
        ];
        ChatTemplate::new(source, vec![("eos_token", "</s>".into())])?.render(&messages, true)
    }

    #[test]
    fn python_values_methods_and_json() {
        assert_eq!(
            render("{{ add_generation_prompt }} {{ none }}").unwrap(),
            "True None"
        );
        assert_eq!(
            render("{{ messages[0] | tojson }}").unwrap(),
            r#"{"role": "user", "content": "hi <b>"}"#
        );
        assert_eq!(
            render("{{ {'é': [1, 2]} | tojson(indent=2) }}").unwrap(),
            "{\n  \"é\": [\n    1,\n    2\n  ]\n}"
        );
        assert_eq!(
            render("{{ ' x '.strip().upper() }}{{ 'a-b'.split('-')[-1] }}{{ messages[1:][0].get('role') }}").unwrap(),
            "Xbassistant"
        );
    }

    #[test]
    fn generation_blocks_are_transparent() {
        let source = "{%- for m in messages -%}{%- generation -%} {{ m.content }} {%- endgeneration -%}{%- endfor -%}";
        assert_eq!(render(source).unwrap(), "hi <b>yo");
    }

    #[test]
    fn the_date_is_fixed() {
        assert_eq!(
            render("{{ strftime_now('%d %b %Y %A %H:%M') }}").unwrap(),
            "26 Jul 2024 Friday 00:00"
        );
        assert_eq!(
            format_time("%Y-%m-%d %a %-d %B", 951_782_400),
            "2000-02-29 Tue 29 February"
        );
    }

    #[test]
    fn a_template_can_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}")
            .unwrap_err()
            .to_string();
        assert!(error.contains("roles must alternate"), "{error}");
        assert!(
            render("{% for %}")
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
    }
}
