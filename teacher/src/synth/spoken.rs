//! What a teacher says, where it is read and not kept as it stands: without its thoughts, and told whether it is whole.

use super::in_order::Dropped;
use crate::remote::answer::Choice;

pub struct Spoken {
    pub text: String,
    /// Whether it ends at `max_tokens`.
    pub is_cut: bool,
}

impl Spoken {
    /// # Errors
    /// An answer that the server held back.
    pub fn of(choice: Choice) -> Result<Self, (Dropped, String)> {
        match choice.finish_reason.as_deref() {
            Some(reason @ "content_filter") => Err((Dropped::Filtered, reason.to_owned())),
            reason => Ok(Self {
                text: without_thoughts(&choice.text).to_owned(),
                is_cut: reason == Some("length"),
            }),
        }
    }
}

/// What a model says after it has thought aloud: nothing, where its thoughts have no end.
pub fn without_thoughts(text: &str) -> &str {
    let said = text.rsplit("</think>").next().unwrap_or(text);
    match said.trim_start().starts_with("<think>") {
        true => "",
        false => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_are_not_said() {
        for (text, expected) in [
            ("so", "so"),
            ("<think>{}</think>so", "so"),
            ("{} or not\n</think>so", "so"),
            ("<think>a</think><think>b</think>so", "so"),
            (" <think>on a scale of 1 to 5", ""),
            ("<think>a</think>\n<think>b", ""),
            ("a <think> in code", "a <think> in code"),
        ] {
            assert_eq!(without_thoughts(text), expected, "{text}");
        }
    }
}
