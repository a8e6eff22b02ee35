//! Programs that run to their end. What runs them is brought by the caller: nothing here does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::python::objection;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Executes {
    /// The column that is looked at. All that a record says when left out.
    pub field: Option<String>,
    /// Whether the examples behind `>>>` have to come out, too.
    pub doctests: bool,
    /// Seconds that a program may take, 0.1 to 3600.
    #[schemars(range(min = 0.1, max = 3600))]
    pub timeout: f64,
    /// MiB that it may take, 64 to 1048576.
    #[schemars(range(min = 64, max = 1048576))]
    pub memory: u64,
    /// The interpreter: a name that is looked for, or a path.
    pub python: String,
    /// Run it where the system does not allow all protections; no part of what comes out.
    #[serde(skip_serializing)]
    #[schemars(extend("default" = Executes::default().unsafe_execution))]
    pub unsafe_execution: bool,
}

impl Default for Executes {
    fn default() -> Self {
        Self {
            field: None,
            doctests: false,
            timeout: 5.0,
            memory: 512,
            python: "python3".into(),
            unsafe_execution: false,
        }
    }
}

/// Runs after the code, among its names.
const DOCTESTS: &str =
    "import doctest, sys\nassert doctest.testmod(sys.modules['__main__'])[0] == 0\n";

impl Executes {
    /// The program of a text and what is run after it: all of a text that is Python or has no fenced blocks; else its
    /// blocks of Python, or without any those without a language. None where all blocks are of other languages.
    pub fn program(&self, text: &str) -> Option<(String, &'static str)> {
        let blocks = blocks(text);
        let is_code = blocks.is_empty() || objection(text).is_none();
        let of = |is_it: &dyn Fn(&str) -> bool| -> Option<String> {
            let code = blocks.iter().filter(|block| is_it(block.language));
            let code: Vec<&str> = code.map(|block| block.code.as_str()).collect();
            (!code.is_empty()).then(|| code.concat())
        };
        let code = match is_code {
            true => text.to_string(),
            false => of(&is_python).or_else(|| of(&str::is_empty))?,
        };
        match self.doctests && code.contains(">>> ") {
            true => Some((code, DOCTESTS)),
            false => Some((code, "")),
        }
    }
}

/// What stands between two fences (CommonMark 0.31, section 4.5).
struct Block<'a> {
    language: &'a str,
    code: String,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(&str, usize)> = None;
    for line in text.lines() {
        let inner = line.trim_start_matches([' ', '\t']);
        let indent = line.len() - inner.len();
        match (open, fence(inner)) {
            (None, Some((fence, words))) => {
                let language = words.split_whitespace().next().unwrap_or_default();
                let code = String::new();
                blocks.push(Block { language, code });
                open = Some((fence, indent));
            }
            (Some((opening, _)), Some((fence, ""))) if fence.starts_with(opening) => open = None,
            (Some((_, beginning)), _) => {
                if let Some(block) = blocks.last_mut() {
                    block.code += &line[indent.min(beginning)..];
                    block.code.push('\n');
                }
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Three or more backticks or tildes, and the words behind them.
fn fence(line: &str) -> Option<(&str, &str)> {
    let mark = line.chars().next().filter(|mark| "`~".contains(*mark))?;
    let words = line.trim_start_matches(mark);
    let fence = &line[..line.len() - words.len()];
    let is_inline = mark == '`' && words.contains(mark);
    (fence.len() >= 3 && !is_inline).then(|| (fence, words.trim()))
}

/// `python`, `py`, and these with a version.
fn is_python(language: &str) -> bool {
    let language = language.to_lowercase();
    let version = (language.strip_prefix("python")).or_else(|| language.strip_prefix("py"));
    version.is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_among_words() {
        let rule = Executes::default();
        let code = |text: &str| rule.program(text).map(|(code, _)| code);
        assert_eq!(code("x = 1\n").as_deref(), Some("x = 1\n"));
        let answer = "Here:\n```python\nx = 1\n```\nRun it:\n```bash\npython x.py\n```\nand\n```py\nassert x\n```\n\
                      It prints:\n```\n1 2\n```\n";
        assert_eq!(code(answer).as_deref(), Some("x = 1\nassert x\n"));
        assert_eq!(code("```Python title=a\ny\n").as_deref(), Some("y\n"));
        assert_eq!(
            code("Run:\n```bash\ny\n```\n```\nx\n```").as_deref(),
            Some("x\n")
        );
        assert_eq!(code("```rust\nfn main() {}\n```"), None);
        let item = "1. So:\n   ```python3.10\n   if x:\n       y\n   ```\n";
        assert_eq!(code(item).as_deref(), Some("if x:\n    y\n"));
        let longer = "So:\n````py\nx = \"\n```\n\"\n`````\nand\n~~~python\ny\n~~~\n";
        assert_eq!(code(longer).as_deref(), Some("x = \"\n```\n\"\ny\n"));
        let plain = "def f():\n    \"\"\"Like\n    ```\n    f()\n    ```\n    \"\"\"\n";
        assert_eq!(code(plain).as_deref(), Some(plain));
    }

    #[test]
    fn examples_run_where_they_are_asked_for_and_there() {
        let with = Executes {
            doctests: true,
            ..Executes::default()
        };
        let example = "def f():\n    '''\n    >>> f()\n    '''\n";
        assert_eq!(with.program(example).unwrap().1, DOCTESTS);
        assert_eq!(with.program("x = 1").unwrap().1, "");
        assert_eq!(Executes::default().program(example).unwrap().1, "");
    }
}
