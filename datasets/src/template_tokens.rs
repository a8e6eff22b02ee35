//! How many tokens a chat template adds to a conversation, about, without a tokenizer.

use crate::chat_template::ChatTemplate;
use crate::sample::Message;
use crate::token_estimate::estimated_tokens;

/// What a template adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TemplateTokens {
    /// To a conversation: what stands before its first turn, such as a system prompt of the template's own.
    pub opening: f64,
    /// To a turn: its role, and where it begins and ends.
    pub turn: f64,
}

impl TemplateTokens {
    /// Of ChatML, where nothing says what the template is.
    pub const USUAL: Self = Self {
        opening: 0.0,
        turn: 5.0,
    };

    /// Found by showing the template two conversations; nothing where it takes none of two turns and of four. Its special
    /// tokens, which it may name, are taken to be one each.
    pub fn of(source: &str) -> Option<Self> {
        let special = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let special = special.map(|name| (name, format!("<{name}>")));
        let template = ChatTemplate::new(source, special.into()).ok()?;
        let shown = |turns: usize| {
            let roles = ["user", "assistant"].into_iter().cycle();
            let messages: Vec<Message> = (roles.take(turns))
                .map(|role| Message::new(role, "word"))
                .collect();
            let text = template.render(&messages, false).ok()?;
            Some(tokens(&text) - turns as f64)
        };
        let (two, four) = (shown(2)?, shown(4)?);
        let turn = ((four - two) / 2.0).max(0.0);
        Some(Self {
            opening: (two - 2.0 * turn).max(0.0),
            turn,
        })
    }

    /// Added to so many turns; nothing to none.
    pub fn around(&self, turns: usize) -> f64 {
        match turns {
            0 => 0.0,
            turns => self.opening + turns as f64 * self.turn,
        }
    }
}

/// Of a text in which what stands in `<` and `>` is a token.
fn tokens(text: &str) -> f64 {
    let mut parts = text.split('<');
    let first = estimated_tokens(parts.next().unwrap_or_default());
    let rest = parts.map(|part| match part.split_once('>') {
        Some((name, after)) if !name.contains(char::is_whitespace) => 1.0 + estimated_tokens(after),
        _ => 1.0 + estimated_tokens(part),
    });
    first + rest.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_told_by_what_it_shows() {
        let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
        let own = format!("<|im_start|>system\nYou are helpful<|im_end|>\n{chatml}");
        let zephyr =
            "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}";
        // Long words, as `assistant`, are a little more than a token.
        for (source, opening, turn) in [
            (chatml, 0.0, 5.2),
            (own.as_str(), 8.0, 5.2),
            (zephyr, 0.0, 4.0),
        ] {
            let found = TemplateTokens::of(source).unwrap();
            let off = (found.opening - opening).abs() + (found.turn - turn).abs();
            assert!(off < 1e-9, "{source}: {found:?}");
            assert_eq!(found.around(0), 0.0);
            assert!((found.around(2) - opening - 2.0 * turn).abs() < 1e-9);
        }
    }

    #[test]
    fn a_template_that_shows_nothing_tells_nothing() {
        for source in ["{{ raise_exception('no') }}", "{% if %}"] {
            assert_eq!(TemplateTokens::of(source), None);
        }
    }
}
