//! Programs that run to their end. What runs them is brought by the caller: nothing here does.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Executes {
    pub field: Option<String>,
    /// Whether the examples behind `>>>` have to come out, too.
    pub doctests: bool,
    /// Seconds that a program may take.
    pub timeout: f64,
    /// MiB that it may take.
    pub memory: u64,
    /// The interpreter.
    pub python: String,
    /// Run it where the system does not allow all protections; no part of what comes out.
    #[serde(skip_serializing)]
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
const LANGUAGES: [&str; 4] = ["", "python", "py", "python3"];

impl Executes {
    /// The program of a text and what is run after it. Of an answer with fenced blocks its Python, without any all of it;
    /// None where there are blocks, and none of Python.
    pub fn program(&self, text: &str) -> Option<(String, &'static str)> {
        let mut code = String::new();
        let (mut found, mut fenced) = (false, false);
        let mut language: Option<&str> = None;
        for line in text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, language) {
                (Some(tag), None) => {
                    fenced = true;
                    language = Some(tag.split_whitespace().next().unwrap_or_default());
                }
                (Some(_), Some(_)) => language = None,
                (None, Some(tag)) if is_python(tag) => {
                    found = true;
                    code += line;
                    code.push('\n');
                }
                (None, _) => {}
            }
        }
        let code = match (fenced, found) {
            (false, _) => text.to_string(),
            (true, false) => return None,
            (true, true) => code,
        };
        match self.doctests && code.contains(">>> ") {
            true => Some((code, DOCTESTS)),
            false => Some((code, "")),
        }
    }
}

fn is_python(tag: &str) -> bool {
    LANGUAGES
        .iter()
        .any(|known| known.eq_ignore_ascii_case(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_among_words() {
        let rule = Executes::default();
        let code = |text: &str| rule.program(text).map(|(code, _)| code);
        assert_eq!(code("x = 1\n").as_deref(), Some("x = 1\n"));
        let answer = "Here:\n```python\nx = 1\n```\nRun it:\n```bash\npython x.py\n```\nand\n```\nassert x\n```\n";
        assert_eq!(code(answer).as_deref(), Some("x = 1\nassert x\n"));
        assert_eq!(code("```Python title=a\ny\n").as_deref(), Some("y\n"));
        assert_eq!(code("```rust\nfn main() {}\n```"), None);
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
