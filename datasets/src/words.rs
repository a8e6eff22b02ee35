//! Words and n-grams of words, as filters compare them.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// In NFC and in lower case, so that the same word is the same bytes.
pub fn normalise(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let composed: Cow<str> = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text.into(),
        _ => text.nfc().collect::<String>().into(),
    };
    composed.to_lowercase()
}

/// The words of a text: runs of letters, digits and `_`. Each character of a script that is written
/// without spaces (Han, Kana, Thai, Lao, Tibetan, Burmese, Khmer) is a word by itself, so n-grams of
/// words are n-grams of characters there.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut characters = text.char_indices().peekable();
    std::iter::from_fn(move || {
        loop {
            let (start, first) = characters.next()?;
            if !is_letter(first) {
                continue;
            }
            let mut end = start + first.len_utf8();
            if !stands_alone(first) {
                while let Some((at, next)) =
                    characters.next_if(|(_, c)| is_letter(*c) && !stands_alone(*c))
                {
                    end = at + next.len_utf8();
                }
            }
            return Some(&text[start..end]);
        }
    })
}

fn is_letter(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

fn stands_alone(character: char) -> bool {
    matches!(character as u32,
        0x0E00..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x31F0..=0x31FF | 0x3400..=0x4DBF
        | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0xFF66..=0xFF9D | 0x20000..=0x3FFFF)
}

/// The hash of each word of a text, which is normalised first.
pub fn word_hashes(text: &str) -> Vec<u64> {
    words(&normalise(text)).map(hash_word).collect()
}

/// FNV-1a, mixed.
pub fn hash_word(word: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    mix(word.bytes().fold(0xCBF2_9CE4_8422_2325, fold))
}

/// The hashes of all runs of `n` words, in order; of a shorter text, the hash of all of it.
pub fn ngram_hashes(words: &[u64], n: usize) -> impl Iterator<Item = u64> {
    let n = n.min(words.len()).max(1);
    words.windows(n).map(hash_ngram)
}

/// The hash of a run of words.
pub fn hash_ngram(words: &[u64]) -> u64 {
    let fold = |hash: u64, word: &u64| hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(*word);
    mix(words.iter().fold(words.len() as u64, fold))
}

/// MurmurHash3's finaliser: every bit of the input moves every bit of the output.
pub fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_several_scripts() {
        let found = |text: &str| {
            let text = normalise(text);
            words(&text).map(str::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found("It's a_b, 3.5!"), ["it", "s", "a_b", "3", "5"]);
        assert_eq!(found("한국어 문장"), ["한국어", "문장"]);
        assert_eq!(found("我爱Rust吗。"), ["我", "爱", "rust", "吗"]);
        assert_eq!(found(" ,\n"), [""; 0]);
        // The same word composed and decomposed.
        assert_eq!(
            word_hashes("가 É"),
            word_hashes("\u{1100}\u{1161} e\u{301}")
        );
    }

    #[test]
    fn a_short_text_is_one_ngram() {
        assert_eq!(ngram_hashes(&[1, 2, 3], 5).count(), 1);
        assert_eq!(ngram_hashes(&[1, 2, 3], 2).count(), 2);
        assert_eq!(ngram_hashes(&[], 2).count(), 0);
        assert_ne!(hash_ngram(&[1, 2]), hash_ngram(&[2, 1]));
    }
}
