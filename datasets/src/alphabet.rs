//! What bytes a vocabulary entry stands for.

use std::sync::OnceLock;

/// How the characters of a vocabulary entry stand for bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Alphabet {
    /// GPT-2: one printable character a byte.
    ByteLevel,
    /// SentencePiece: `▁` is a space, `<0x0A>` a byte.
    SentencePiece,
    Plain,
}

impl Alphabet {
    /// Judged by the decoder and the pre-tokenizer.
    pub(crate) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let described = |part: Option<String>| part.unwrap_or_default();
        let decoder = described(
            tokenizer
                .get_decoder()
                .and_then(|d| serde_json::to_string(d).ok()),
        );
        let before = described(
            tokenizer
                .get_pre_tokenizer()
                .and_then(|p| serde_json::to_string(p).ok()),
        );
        if decoder.contains("\"ByteLevel\"") || before.contains("\"ByteLevel\"") {
            Self::ByteLevel
        } else if decoder.contains("ByteFallback")
            || decoder.contains("Metaspace")
            || decoder.contains('▁')
        {
            Self::SentencePiece
        } else {
            Self::Plain
        }
    }

    /// The bytes of an entry that is no added token.
    pub(crate) fn bytes(self, token: String) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                bytes.unwrap_or_else(|| token.into_bytes())
            }
            Self::SentencePiece => {
                let byte = token
                    .strip_prefix("<0x")
                    .and_then(|rest| rest.strip_suffix('>'))
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok());
                match byte {
                    Some(byte) => vec![byte],
                    None => token.replace('▁', " ").into_bytes(),
                }
            }
            Self::Plain => token.into_bytes(),
        }
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 stands for itself,
/// the 68 others follow from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    static TABLE: OnceLock<[Option<u8>; 324]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = [None; 324];
        let mut next = 256;
        for byte in 0..=255u8 {
            let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            if printable {
                table[usize::from(byte)] = Some(byte);
            } else {
                table[next] = Some(byte);
                next += 1;
            }
        }
        table
    });
    table.get(character as usize).copied().flatten()
}
