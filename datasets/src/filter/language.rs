//! Texts in languages that are not wanted.
//!
//! Languages are told apart by whatlang: 70 of them in trigrams of 100 KB, where lingua's models are a hundred
//! megabytes. It is unsure of texts of a few words, which `min_confidence` is for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whatlang::{Lang, detect};

/// The start of a text is enough.
const CHARACTERS: usize = 4096;

/// Two-letter codes (ISO 639-1), each followed by whatlang's three letters (ISO 639-3).
const CODES: &str = "af afr ak aka am amh ar ara az aze be bel bg bul bn ben ca cat cs ces cy cym da dan de deu el ell \
     en eng eo epo es spa et est fa pes fi fin fr fra gu guj he heb hi hin hr hrv hu hun hy hye id ind it ita ja jpn \
     jv jav ka kat km khm kn kan ko kor la lat lt lit lv lav mk mkd ml mal mr mar my mya nb nob ne nep nl nld or ori \
     pa pan pl pol pt por ro ron ru rus si sin sk slk sl slv sn sna sr srp sv swe ta tam te tel th tha tk tuk tl tgl \
     tr tur uk ukr ur urd uz uzb vi vie yi yid zh cmn zu zul";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// The languages that pass: two-letter codes of ISO 639-1.
    #[schemars(length(min = 1))]
    pub keep: Vec<String>,
    /// From 0 to 1; a language that is recognised with less does not count.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub min_confidence: f64,
    /// The column that is looked at. All that a record says when left out.
    pub field: Option<String>,
}

fn codes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let codes: Vec<&str> = CODES.split_whitespace().collect();
    (0..codes.len() / 2).map(move |i| (codes[2 * i], codes[2 * i + 1]))
}

fn code_of(language: Lang) -> &'static str {
    let found = codes().find(|(_, three)| *three == language.code());
    found.map_or(language.code(), |(two, _)| two)
}

impl Language {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if self.keep.is_empty() {
            found.push(("keep".into(), "`keep` names no language".into()));
        }
        for (i, wanted) in self.keep.iter().enumerate() {
            if !codes().any(|(two, _)| two == wanted) {
                let known: Vec<&str> = codes().map(|(two, _)| two).collect();
                let says = format!("no language `{wanted}`; accepted: {}", known.join(", "));
                found.push((format!("keep.{i}"), says));
            }
        }
        if !(0.0..=1.0).contains(&self.min_confidence) {
            let says = "`min_confidence` must lie between 0 and 1";
            found.push(("min_confidence".into(), says.into()));
        }
        found
    }

    pub(super) fn objection(&self, text: &str) -> Option<String> {
        let end = text
            .char_indices()
            .nth(CHARACTERS)
            .map_or(text.len(), |(at, _)| at);
        let Some(found) = detect(&text[..end]) else {
            return Some("no language".into());
        };
        let (code, confidence) = (code_of(found.lang()), found.confidence());
        let wanted = self.keep.iter().any(|keep| keep == code);
        (!wanted || confidence < self.min_confidence)
            .then(|| format!("{code}, confidence {confidence:.2}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_a_code() {
        for language in Lang::all() {
            assert_eq!(code_of(*language).len(), 2, "{language:?}");
        }
        assert_eq!(codes().count(), Lang::all().len());
    }

    #[test]
    fn texts_of_other_languages_are_told() {
        let rule = Language {
            keep: vec!["en".into(), "ko".into()],
            min_confidence: 0.5,
            field: None,
        };
        let german = "Der schnelle braune Fuchs springt über den faulen Hund, und niemand weiß warum er das tut.";
        assert!(rule.objection(german).unwrap().starts_with("de, "));
        let english =
            "The quick brown fox jumps over the lazy dog, and nobody knows why he would do that.";
        assert_eq!(rule.objection(english), None);
        assert_eq!(rule.objection("한국어로 쓴 문장입니다."), None);
        assert_eq!(rule.objection("12345").as_deref(), Some("no language"));
        let wrong = Language {
            keep: vec!["eng".into()],
            ..rule
        };
        assert!(wrong.check()[0].1.contains("accepted: af, ak,"));
    }
}
