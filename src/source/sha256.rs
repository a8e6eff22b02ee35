use std::fmt;
use std::io::{self, Read, Write};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest;

/// A sha256 in lower-case hexadecimal.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[0-9a-fA-F]{64}$"))]
pub struct Sha256(String);

impl Sha256 {
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hasher(sha2::Sha256::new_with_prefix(bytes))
    }

    pub fn from_hasher(hasher: sha2::Sha256) -> Self {
        Self(
            hasher
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }

    pub fn of_reader(mut reader: impl Read) -> io::Result<Self> {
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(Self::from_hasher(hasher)),
                n => hasher.update(&buffer[..n]),
            }
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits: enough to tell apart what one recipe makes.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.0
    }
}

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text))
        } else {
            Err(format!(
                "a sha256 has 64 hexadecimal digits, this has {}",
                text.chars().count()
            ) + "\nhint: `sha256sum FILE` prints it")
        }
    }
}

/// Writes through to `inner` and digests what goes by.
pub struct Hashing<W> {
    inner: W,
    hasher: sha2::Sha256,
}

impl<W: Write> Hashing<W> {
    pub fn new(inner: W) -> Self {
        let hasher = sha2::Sha256::new();
        Self { inner, hasher }
    }

    pub fn finish(self) -> (W, Sha256) {
        (self.inner, Sha256::from_hasher(self.hasher))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests() {
        assert_eq!(Sha256::of(b"abc").as_str(), ABC);
        assert_eq!(Sha256::of_reader(&b"abc"[..]).unwrap().as_str(), ABC);
        let mut hashing = Hashing::new(Vec::new());
        hashing.write_all(b"abc").unwrap();
        let (written, digest) = hashing.finish();
        assert_eq!((written.as_slice(), digest.as_str()), (&b"abc"[..], ABC));
    }

    #[test]
    fn only_64_hexadecimal_digits() {
        assert_eq!(Sha256::try_from(ABC.to_uppercase()).unwrap().as_str(), ABC);
        assert!(Sha256::try_from(ABC[1..].to_string()).is_err());
        assert!(Sha256::try_from(ABC.replace('a', "g")).is_err());
    }
}
