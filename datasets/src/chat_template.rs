//! Chat templates: Jinja as Hugging Face models write it.

use std::fmt;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, context};
use sha2::{Digest, Sha256};

use crate::error::DataError;
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

    /// The template that a tokenizer carries, if it does.
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<Self>, DataError> {
        let source = tokenizer.chat_template();
        source
            .map(|source| Self::with_tokenizer(source, tokenizer))
            .transpose()
    }

    /// Another template for the tokenizer, whose special tokens it can name.
    pub fn with_tokenizer(source: &str, tokenizer: &Tokenizer) -> Result<Self, DataError> {
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

/// `{% generation %}` marks the assistant's text for a mask; here it is a block like any other.
fn without_generation_blocks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let end = start + length + 2;
        let tag = &rest[start + 2..end - 2];
        let word = tag.trim_matches(['-', '+', ' ', '\t', '\r', '\n']);
        result.push_str(&rest[..start]);
        match word {
            "generation" => result.push_str(&format!("{{%{}%}}", tag.replacen(word, "if true", 1))),
            "endgeneration" => {
                result.push_str(&format!("{{%{}%}}", tag.replacen(word, "endif", 1)))
            }
            _ => result.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    result.push_str(rest);
    result
}

/// Prints what Python prints: `True`, `False` and `None`.
fn format_value(
    output: &mut minijinja::Output,
    state: &minijinja::State,
    value: &Value,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool => output.write_str(if value.is_true() { "True" } else { "False" })?,
        ValueKind::None => output.write_str("None")?,
        _ => return minijinja::escape_formatter(output, state, value),
    }
    Ok(())
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: `", "` and `": "` between, no HTML escapes.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let value = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut text = String::new();
    write_json(&mut text, &value, indent, 0);
    Ok(Value::from_safe_string(text))
}

fn write_json(out: &mut String, value: &serde_json::Value, indent: Option<usize>, depth: usize) {
    let line = |out: &mut String, depth: usize, first: bool| match indent {
        Some(width) => {
            out.push_str(if first { "\n" } else { ",\n" });
            out.push_str(&" ".repeat(width * depth));
        }
        None if first => {}
        None => out.push_str(", "),
    };
    let close = |out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(width * depth));
        }
    };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                line(out, depth + 1, i == 0);
                write_json(out, item, indent, depth + 1);
            }
            close(out);
            out.push(']');
        }
        serde_json::Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                line(out, depth + 1, i == 0);
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(out, item, indent, depth + 1);
            }
            close(out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The common codes of `strftime`, in English and UTC; others stay as they are.
fn format_time(format: &str, seconds: i64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let (year, month, day) = civil_date(days);
    let month_name = MONTHS[month - 1];
    let day_name = DAYS[days.rem_euclid(7) as usize];
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut code = characters.next();
        let padded = code != Some('-');
        if !padded {
            code = characters.next();
        }
        let two = |n: i64| {
            if padded {
                format!("{n:02}")
            } else {
                n.to_string()
            }
        };
        match code {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&two(year.rem_euclid(100))),
            Some('m') => out.push_str(&two(month as i64)),
            Some('d') => out.push_str(&two(day)),
            Some('H') => out.push_str(&two(second / 3600)),
            Some('M') => out.push_str(&two(second / 60 % 60)),
            Some('S') => out.push_str(&two(second % 60)),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month (1–12) and day of the days since 1970-01-01 (Hinnant's algorithm).
fn civil_date(days: i64) -> (i64, usize, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        month as usize,
        day_of_year - (153 * shifted + 2) / 5 + 1,
    )
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
