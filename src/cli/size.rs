//! Sizes of memory on the command line.

/// Units by their names in small letters; those of 1000 have no `i`.
const UNITS: [(&str, u64); 10] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

/// `1.5GiB`, `800 MB`, or bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || "a size of memory, as 1.5GiB, 800MB or bytes".to_string();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let (_, bytes) = (UNITS.iter().find(|(name, _)| *name == unit)).ok_or_else(wrong)?;
    let bytes = number * *bytes as f64;
    match (1.0..1e18).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn reads_sizes() {
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert_eq!(size("800 MB"), Ok(800_000_000));
        assert_eq!(size("4096"), Ok(4096));
        for wrong in ["", "GiB", "1.2.3GiB", "-1GiB", "0", "5 parsecs", "1e9"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
