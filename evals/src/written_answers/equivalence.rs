//! Answers of MATH: the one in a box, and whether two are the same but for how they are written. The rules are those of
//! the original release, as lm-eval 0.4.13 has them.

use std::sync::LazyLock;

use regex::Regex;

static WHOLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[+-]?\d+(_\d+)*$"));
/// A whole number as Python writes it.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| pattern("^(0|-?[1-9][0-9]*)$"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this file")
}

/// What is in the last box of a text, `\boxed{…}` or `\fbox{…}`, or what follows the last `\boxed ` up to a dollar.
pub(super) fn boxed(text: &str) -> Option<&str> {
    const SPACED: &str = "\\boxed ";
    if let Some(at) = text.rfind(SPACED) {
        let rest = &text[at + SPACED.len()..];
        return rest.split('$').next();
    }
    let at = text.rfind("\\boxed").or_else(|| text.rfind("\\fbox"))?;
    let mut depth = 0;
    let end = text[at..].bytes().position(|byte| {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        byte == b'}' && depth == 0
    })?;
    let whole = &text[at..at + end];
    (whole.strip_prefix("\\boxed{")).or_else(|| whole.strip_prefix("\\fbox{"))
}

/// Whether two answers are the same once both are normalised; of one that cannot be, whether they are as they stand.
pub(super) fn is_equivalent(first: &str, second: &str) -> bool {
    match (normalised(first), normalised(second)) {
        (Some(first), Some(second)) => first == second,
        _ => first == second,
    }
}

/// An answer in its usual form; none where it breaks off, or has a slash between what are no numbers.
pub(super) fn normalised(answer: &str) -> Option<String> {
    let mut text = answer.replace('\n', "").replace("\\!", "");
    text = text.replace("\\\\", "\\");
    for (long, short) in [("tfrac", "frac"), ("dfrac", "frac")] {
        text = text.replace(long, short);
    }
    for without in ["\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"] {
        text = text.replace(without, "");
    }
    text = without_unit(&text)?.replace("\\%", "");
    text = text.replace(" .", " 0.").replace("{.", "{0.");
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    let sides: Vec<&str> = text.split('=').collect();
    if let [name, value] = sides[..]
        && name.chars().count() <= 2
    {
        text = value.to_string();
    }
    text = with_braced_roots(&text)?.replace(' ', "");
    text = with_braced_fractions(&text)?;
    if text == "0.5" {
        text = "\\frac{1}{2}".into();
    }
    with_slash_as_fraction(&text)
}

/// What stands before `\text{ `, which begins a unit; none of several.
fn without_unit(text: &str) -> Option<&str> {
    let mut parts = text.split("\\text{ ");
    let first = parts.next()?;
    match parts.nth(1) {
        Some(_) => None,
        None => Some(first),
    }
}

/// `\sqrt3` as `\sqrt{3}`; none where nothing follows a root.
fn with_braced_roots(text: &str) -> Option<String> {
    let mut parts = text.split("\\sqrt");
    let mut whole = parts.next()?.to_string();
    for part in parts {
        let mut rest = part.chars();
        match rest.next()? {
            '{' => whole += &format!("\\sqrt{part}"),
            under => whole += &format!("\\sqrt{{{under}}}{}", rest.as_str()),
        }
    }
    Some(whole)
}

/// `\frac12` and `\frac1{72}` as `\frac{1}{2}` and `\frac{1}{72}`; none where nothing follows, the text as it was where a
/// single character does.
fn with_braced_fractions(text: &str) -> Option<String> {
    let mut parts = text.split("\\frac");
    let mut whole = parts.next()?.to_string();
    for part in parts {
        let mut rest = part.chars();
        let above = rest.next()?;
        if above == '{' {
            whole += &format!("\\frac{part}");
            continue;
        }
        let Some(below) = rest.next() else {
            return Some(text.to_string());
        };
        let rest = rest.as_str();
        whole += &match below {
            '{' => format!("\\frac{{{above}}}{{{rest}"),
            _ => format!("\\frac{{{above}}}{{{below}}}{rest}"),
        };
    }
    Some(whole)
}

/// `3/4` as a fraction, where both are whole numbers as one writes them; none where one is no whole number.
fn with_slash_as_fraction(text: &str) -> Option<String> {
    let sides: Vec<&str> = text.split('/').collect();
    let [above, below] = sides[..] else {
        return Some(text.to_string());
    };
    if !is_whole(above) || !is_whole(below) {
        return None;
    }
    match PLAIN.is_match(above) && PLAIN.is_match(below) {
        true => Some(format!("\\frac{{{above}}}{{{below}}}")),
        false => Some(text.to_string()),
    }
}

/// A whole number as Python reads it.
fn is_whole(text: &str) -> bool {
    const MOST_DIGITS: usize = 4300;
    let digits = text.chars().filter(|c| c.is_numeric()).count();
    WHOLE.is_match(text.trim()) && digits <= MOST_DIGITS
}
