//! Patterns of what a judge writes, and the numbers in it.

use std::sync::LazyLock;

use regex::Regex;

/// One that is part of the program.
pub fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a fixed pattern compiles")
}

/// A number as it is written: `4`, `**4.5**`, `4/5`, `4 out of 10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenNumber<'a> {
    pub digits: &'a str,
    /// Where the scale ends, if it is said.
    pub scale: Option<&'a str>,
    /// Not of something else: of a range, a share, a word.
    pub is_whole: bool,
    /// What follows it.
    pub after: &'a str,
}

impl<'a> WrittenNumber<'a> {
    /// The number that a text begins with, marks aside.
    pub fn at_start(text: &'a str) -> Option<Self> {
        let found = AT_START.captures(text)?;
        let after = &text[found.get(0)?.end()..];
        let goes_on = after.starts_with(|c: char| c.is_alphanumeric() || c == '%');
        Some(Self {
            digits: found.get(1)?.as_str(),
            scale: found.get(2).map(|scale| scale.as_str()),
            is_whole: !goes_on && !GOES_ON.is_match(after),
            after,
        })
    }

    /// Its value, if it is whole and of a scale that ends at `best` where it says one.
    pub fn value(&self, best: f64) -> Option<f64> {
        let is_ours = |scale: &str| scale.parse() == Ok(best);
        let fits = self.is_whole && self.scale.is_none_or(is_ours);
        fits.then(|| self.digits.parse().ok()).flatten()
    }
}

/// A number, perhaps of a scale.
static AT_START: LazyLock<Regex> = LazyLock::new(|| {
    fixed(r#"(?i)^[\s*_"'`\[(]*(-?\d+(?:[.,]\d+)?)[\])*_"'`]*(?:\s*(?:/|out of|of)\s*[*_]*(\d+))?"#)
});
/// A range, or no number: there are further digits.
static GOES_ON: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(?i)^(?:\s*(?:[-–—/]|to|or|and)\s*|[.,])\d"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_where_they_are_whole_and_of_the_scale() {
        let value = |text| WrittenNumber::at_start(text)?.value(5.0);
        for (text, expected) in [
            ("4", 4.0),
            (" **4.5**: good", 4.5),
            ("4/5.", 4.0),
            ("4 out of 5", 4.0),
            ("-3", -3.0),
            ("4. It is clear.", 4.0),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "a 4",
            "4/10",
            "4 of 50",
            "3-4",
            "3 to 4",
            "3 or 4",
            "80%",
            "4th",
            "1.2.3",
            "4,5",
            "4/99999999999999999999",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
    }
}
