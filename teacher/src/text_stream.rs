//! Tokens to text as they come: whole characters only, and nothing of a stop string.

/// Text that grows by the bytes of tokens. What [`TextStream::push`] returns, joined, is what [`TextStream::finish`]
/// ends with: text that has been handed out is never taken back.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes that do not make a character yet.
    pending: Vec<u8>,
    text: String,
    /// Bytes of `text` that have been handed out.
    given: usize,
    stopped: Option<usize>,
}

impl TextStream {
    /// `stops` must not be empty strings.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            ..Self::default()
        }
    }

    /// Adds the bytes of a token and returns the text that is certain by now.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        if self.stopped.is_some() {
            return "";
        }
        self.pending.extend_from_slice(bytes);
        self.take_characters(false);
        self.hand_out(false)
    }

    /// Whether a text is one of the stop strings, as a special token may be.
    pub fn is_stop(&self, text: &str) -> bool {
        self.stops.iter().any(|stop| stop == text)
    }

    /// Whether a stop string has come; the index of it.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// The rest of the text, when no more tokens come. Bytes that never became a character are U+FFFD.
    pub fn finish(&mut self) -> &str {
        if self.stopped.is_some() {
            return "";
        }
        self.take_characters(true);
        self.hand_out(true)
    }

    /// All of the text, without the stop string.
    pub fn into_text(self) -> String {
        self.text
    }

    fn take_characters(&mut self, at_end: bool) {
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(text) => {
                    self.text.push_str(text);
                    self.pending.clear();
                    return;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    let good = String::from_utf8_lossy(&self.pending[..valid]).into_owned();
                    self.text.push_str(&good);
                    match error.error_len() {
                        Some(wrong) => {
                            self.text.push(char::REPLACEMENT_CHARACTER);
                            self.pending.drain(..valid + wrong);
                        }
                        None if at_end => {
                            self.text.push(char::REPLACEMENT_CHARACTER);
                            self.pending.clear();
                            return;
                        }
                        None => {
                            self.pending.drain(..valid);
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Cuts at the first stop string and hands out all that cannot be the beginning of one.
    fn hand_out(&mut self, at_end: bool) -> &str {
        // What has been handed out is no part of a stop string.
        let new = &self.text[self.given..];
        let found = (self.stops.iter().enumerate())
            .filter_map(|(i, stop)| Some((new.find(stop.as_str())?, i)))
            .min();
        let mut end = self.text.len();
        if let Some((at, stop)) = found {
            end = self.given + at;
            self.text.truncate(end);
            self.stopped = Some(stop);
        } else if !at_end {
            end -= (self.stops.iter())
                .map(|stop| overlap(new, stop))
                .max()
                .unwrap_or(0);
        }
        let start = std::mem::replace(&mut self.given, end);
        &self.text[start..end]
    }
}

/// Bytes of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (stop.char_indices().map(|(at, _)| at).rev())
        .find(|&length| length <= text.len() && text.ends_with(&stop[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, String, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut stream = TextStream::new(&stops);
        let mut given: Vec<String> =
            (pieces.iter().map(|piece| stream.push(piece).to_string())).collect();
        given.push(stream.finish().to_string());
        let stopped = stream.stopped();
        let text = stream.into_text();
        assert_eq!(given.concat(), text);
        (given, text, stopped)
    }

    #[test]
    fn characters_are_never_split() {
        let (given, text, _) = stream(&[], &[&[0xEA, 0xB0], &[0x80, b'x'], &[0xF0, 0x9F]]);
        assert_eq!(given, ["", "가x", "", "\u{FFFD}"]);
        assert_eq!(text, "가x\u{FFFD}");
        let (_, text, _) = stream(&[], &[&[0xFF, b'a', 0xC3], b"b"]);
        assert_eq!(text, "\u{FFFD}a\u{FFFD}b");
    }

    #[test]
    fn stop_strings_are_cut_and_never_shown() {
        let (given, text, stopped) =
            stream(&["\nQ:", "END"], &[b"one\n", b"two\n", b"Q", b": x", b"y"]);
        assert_eq!(given, ["one", "\ntwo", "", "", "", ""]);
        assert_eq!((text.as_str(), stopped), ("one\ntwo", Some(0)));
        // A beginning that never becomes one is given at the end.
        let (given, text, stopped) = stream(&["END"], &[b"xEN"]);
        assert_eq!(given, ["x", "EN"]);
        assert_eq!((text.as_str(), stopped), ("xEN", None));
    }

    #[test]
    fn the_first_of_several_stops_wins_also_inside_one_token() {
        let (_, text, stopped) = stream(&["c", "bc"], &[b"abcd"]);
        assert_eq!((text.as_str(), stopped), ("a", Some(1)));
        let (_, text, _) = stream(&["aab"], &[b"a", b"a", b"a", b"b"]);
        assert_eq!(text, "a");
        let (_, text, _) = stream(&["가나"], &["x가".as_bytes(), "나".as_bytes()]);
        assert_eq!(text, "x");
    }
}
