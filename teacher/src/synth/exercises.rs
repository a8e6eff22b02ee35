//! Exercises of programming: a function by its signature and docstring, and its body, from a topic (CodeExercises of
//! phi-1, arXiv 2306.11644, section 2.3). What a teacher writes is read and never run.

use datasets::python::{Function, Kind, statements};
use datasets::sample::Sample;
use serde::Serialize;
use serde_json::Value;

use super::asker::Asker;
use super::generate::{Plan, answer_seed};
use super::in_order::{Answered, Dropped};
use super::record::{Lineage, Record};
use crate::error::TeacherError;

/// What a JSON answer has the code under.
const CODE: &str = "code";

/// The function's head, and what completes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exercise {
    /// Imports, the `def` line and the docstring.
    pub prompt: String,
    pub completion: String,
    pub entry_point: String,
}

/// A line of data: readers take `prompt` and `completion`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Written {
    #[serde(flatten)]
    pub exercise: Exercise,
    pub topic: String,
    pub lineage: Lineage,
}

/// All exercises of one topic.
///
/// # Errors
/// Those that end the whole stage.
pub async fn write_exercises(
    asker: &Asker,
    plan: &Plan,
    number: usize,
    topic: &Sample,
) -> Result<Answered<Written>, TeacherError> {
    let answered = answer_seed(asker, plan, number, topic).await?;
    let topic = super::prompt::Variables::of(topic, None).prompt;
    Ok(answered.parsed(|record: Record| {
        Ok(Written {
            exercise: read_exercise(record.answer(), record.is_cut())?,
            topic: topic.trim().to_owned(),
            lineage: record.lineage,
        })
    }))
}

/// Reads one function, perhaps after imports; what stands after it, as calls and tests do, is left out.
///
/// # Errors
/// The reason for which it is no exercise. Of an answer that is cut, code counts where its fence or its object is closed.
pub fn read_exercise(answer: &str, is_cut: bool) -> Result<Exercise, (Dropped, String)> {
    let (code, is_closed) = code_of(answer);
    if is_cut && !is_closed {
        let last = code.lines().last().unwrap_or_default();
        return Err((Dropped::Cut, format!("the last line is `{last}`")));
    }
    let wrong = |why: &str| (Dropped::WrongShape, why.to_owned());
    let found = statements(&code).map_err(|why| (Dropped::NotPython, why))?;
    let is_function = |kind: &Kind| matches!(kind, Kind::Function(_));
    let functions = found
        .iter()
        .filter(|statement| is_function(&statement.kind));
    let definitions = functions.count() + found.iter().filter(|s| s.kind == Kind::Class).count();
    let at = found
        .iter()
        .position(|statement| is_function(&statement.kind));
    let Some((at, 1)) = at.zip(Some(definitions)) else {
        return Err(wrong(&format!("{definitions} functions and classes")));
    };
    if found[..at]
        .iter()
        .any(|statement| statement.kind != Kind::Import)
    {
        return Err(wrong(
            "something other than imports stands before the function",
        ));
    }
    let Kind::Function(Function {
        name,
        docstring,
        does_something,
    }) = &found[at].kind
    else {
        return Err(wrong("no function"));
    };
    let Some(docstring) = docstring else {
        return Err((Dropped::NoDocstring, format!("`{name}`")));
    };
    if !does_something {
        return Err((Dropped::NoBody, format!("`{name}`")));
    }
    let start = found[0].range.start;
    let rest = &code[docstring.end..found[at].range.end];
    let (after, completion) = rest.split_once('\n').unwrap_or((rest, ""));
    let is_end = after.trim().is_empty() || after.trim_start().starts_with('#');
    if !is_end || completion.trim().is_empty() {
        return Err(wrong("the body stands on the line of the docstring"));
    }
    Ok(Exercise {
        prompt: format!("{}\n", &code[start..docstring.end]),
        completion: format!("{}\n", completion.trim_end()),
        entry_point: name.clone(),
    })
}

/// The code of an answer, a field of a JSON object, the first fenced block, or all of it; and whether its end is marked.
fn code_of(answer: &str) -> (String, bool) {
    let field = serde_json::from_str::<Value>(answer.trim())
        .ok()
        .and_then(|value| Some(value.get(CODE)?.as_str()?.to_owned()));
    let is_object = field.is_some();
    let text = field.unwrap_or_else(|| answer.to_owned());
    let lines: Vec<&str> = text.lines().collect();
    let is_fence = |line: &&str| line.trim_start().starts_with("```");
    let mut blocks = lines.split(is_fence);
    let all = blocks.next().unwrap_or_default();
    let code = blocks.next().unwrap_or(all);
    let is_closed = is_object || blocks.next().is_some();
    (code.join("\n") + "\n", is_closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "import math\n\ndef area(r):\n    \"\"\"Area of a circle.\n\n    >>> area(0)\n    0.0\n    \"\"\"\n    # all of it\n    return math.pi * r * r\n";

    #[test]
    fn functions_are_read_where_they_stand() {
        let fenced = format!("Sure!\n```python\n{CODE}```\nThis is it.\n```\nprint(1)\n```");
        let json = serde_json::json!({ "code": CODE }).to_string();
        let both = serde_json::json!({ "code": fenced }).to_string();
        let called = format!("{CODE}\nprint(area(2))\nif __name__ == \"__main__\":\n    area(1)\n");
        let unclosed = format!("```\n{CODE}");
        let windows = CODE.replace('\n', "\r\n");
        for (answer, is_closed) in [
            (CODE, false),
            (&fenced, true),
            (&json, true),
            (&both, true),
            (&called, false),
            (&unclosed, false),
            (&windows, false),
        ] {
            let cut = read_exercise(answer, true).map_err(|(why, _)| why);
            assert_eq!(cut.err(), (!is_closed).then_some(Dropped::Cut), "{answer}");
            let found = read_exercise(answer, false).unwrap();
            assert_eq!(found.entry_point, "area");
            assert!(
                found
                    .prompt
                    .starts_with("import math\n\ndef area(r):\n    \"\"\"Area")
            );
            assert!(found.prompt.ends_with("    \"\"\"\n"));
            let body = "    # all of it\n    return math.pi * r * r\n";
            assert_eq!(found.completion, body);
            let whole = format!("{}{}", found.prompt, found.completion);
            assert_eq!(whole, CODE);
        }
    }

    #[test]
    fn what_is_no_exercise_is_told_apart() {
        for (answer, expected) in [
            ("I cannot do that.", Dropped::NotPython),
            ("def f(:\n    pass", Dropped::NotPython),
            (
                "def f():\n\"\"\"Doc.\"\"\"\n    return 1",
                Dropped::NotPython,
            ),
            ("", Dropped::WrongShape),
            ("x = 1", Dropped::WrongShape),
            ("class A:\n    '''doc'''\n    x = 1", Dropped::WrongShape),
            (
                "x = 1\ndef f():\n    'doc'\n    return x",
                Dropped::WrongShape,
            ),
            (
                "def f():\n    'd'\n    return g()\ndef g():\n    return 1",
                Dropped::WrongShape,
            ),
            ("def f(): 'doc'; return 1", Dropped::WrongShape),
            ("def f():\n    'doc'; return 1", Dropped::WrongShape),
            ("def f():\n    return 1", Dropped::NoDocstring),
            ("def f():\n    f'doc'\n    return 1", Dropped::NoDocstring),
            ("def f():\n    'doc'", Dropped::NoBody),
            ("def f():\n    'doc'\n    pass", Dropped::NoBody),
            ("def f():\n    'doc'\n    ...", Dropped::NoBody),
            ("{\"code\": 3}", Dropped::WrongShape),
        ] {
            let found = read_exercise(answer, false).unwrap_err();
            assert_eq!(found.0, expected, "{answer}");
        }
    }
}
