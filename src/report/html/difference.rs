//! Two texts line by line: what is only in the first, only in the second, in both.

/// More lines than a recipe has are not compared.
const MOST: usize = 3000;

/// Lines of both, those of one alone with `-` or `+` in front; a longest common subsequence stays.
pub fn difference(first: &str, second: &str) -> String {
    let [a, b] = [first, second].map(|text| text.lines().take(MOST).collect::<Vec<_>>());
    // `longest[i][j]`: of a[i..] and b[j..].
    let mut longest = vec![vec![0u16; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = match a[i] == b[j] {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        let (sign, line) = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) if x == y => (' ', x),
            (Some(x), None) => ('-', x),
            (Some(x), Some(_)) if longest[i + 1][j] >= longest[i][j + 1] => ('-', x),
            (_, Some(y)) => ('+', y),
            (None, None) => break,
        };
        i += usize::from(sign != '+');
        j += usize::from(sign != '-');
        text += &format!("{sign} {line}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_lines_stay_and_others_are_marked() {
        assert_eq!(
            difference("a\nb\nc", "a\nx\nc\nd"),
            "  a\n- b\n+ x\n  c\n+ d\n"
        );
        assert_eq!(difference("", "a"), "+ a\n");
        assert_eq!(difference("a", ""), "- a\n");
    }
}
