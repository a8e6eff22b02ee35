//! Numbered lists in what a teacher writes.

/// The items of a list `1. …`, `2) …`: a line that begins with a number begins one, the lines below belong to it up to a
/// blank one. What stands before the first item or after a blank line is no part of the list.
pub fn items(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines().map(str::trim) {
        if let Some(item) = after_number(line) {
            found.push(item.to_owned());
            open = true;
        } else if line.is_empty() {
            open = false;
        } else if let (true, Some(item)) = (open, found.last_mut()) {
            let separator = if item.is_empty() { "" } else { "\n" };
            item.push_str(separator);
            item.push_str(line);
        }
    }
    found.iter().map(|item| plain(item).to_owned()).collect()
}

/// The line behind its number, which Markdown may have set in bold.
fn after_number(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(['*', '#', ' ']);
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &line[digits..];
    let rest = rest.strip_prefix(['.', ')'])?;
    let rest = rest.strip_prefix("**").unwrap_or(rest);
    let begins = rest.is_empty() || rest.starts_with(char::is_whitespace);
    ((1..=4).contains(&digits) && begins).then(|| rest.trim())
}

/// Without the marks around the whole of it.
fn plain(item: &str) -> &str {
    let item = item.trim();
    for mark in ["**", "\"", "`"] {
        if let Some(inner) = item.strip_prefix(mark).and_then(|i| i.strip_suffix(mark))
            && !inner.contains(mark)
        {
            return inner.trim();
        }
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_models_write_them() {
        let text = "Here are some tasks:\n\n1. Name a river.\n2) **Sum the numbers.**\n   Numbers: 1.5, 2\n\n\
                    **3.** \"Translate this.\"\n4.\n10. Use 3.14 as \"pi\".\n\nI hope these help!\n";
        let expected = [
            "Name a river.",
            "**Sum the numbers.**\nNumbers: 1.5, 2",
            "Translate this.",
            "",
            "Use 3.14 as \"pi\".",
        ];
        assert_eq!(items(text), expected);
        for none in [
            "",
            "No list at all.",
            "1.5 litres",
            "12345. too many digits",
            "- a\n- b",
        ] {
            assert!(items(none).is_empty(), "{none}");
        }
        assert_eq!(
            items("1. 한국의 수도는?\r\n2. 끝"),
            ["한국의 수도는?", "끝"]
        );
    }
}
