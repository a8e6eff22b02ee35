//! Numbers on the command line, each with its range: what lies outside is a wrong flag.

/// 1 or more.
pub fn count(text: &str) -> Result<usize, String> {
    whole(text, 1, usize::MAX)
}

/// 2 or more.
pub fn window(text: &str) -> Result<usize, String> {
    whole(text, 2, usize::MAX)
}

/// Tokens of an answer, as many as a server can be told.
pub fn tokens(text: &str) -> Result<usize, String> {
    whole(text, 1, u32::MAX as usize)
}

fn whole(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let range = match most {
        usize::MAX => format!("a whole number, {least} or more"),
        _ => format!("a whole number from {least} to {most}"),
    };
    let number = text.parse().ok();
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or(range)
}

pub fn at_least_zero(text: &str) -> Result<f64, String> {
    within(text, |number| number >= 0.0, "a number, zero or more")
}

pub fn above_zero(text: &str) -> Result<f64, String> {
    within(text, |number| number > 0.0, "a number above 0")
}

pub fn share(text: &str) -> Result<f64, String> {
    let holds = |number| (0.0..=1.0).contains(&number);
    within(text, holds, "a number between 0 and 1")
}

pub fn share_above_zero(text: &str) -> Result<f64, String> {
    let holds = |number| number > 0.0 && number <= 1.0;
    within(text, holds, "a number above 0 and at most 1")
}

fn within(text: &str, holds: impl Fn(f64) -> bool, says: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number
        .filter(|number| number.is_finite() && holds(*number))
        .ok_or_else(|| says.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_they_say() {
        assert_eq!(
            (count("1"), tokens("4294967295")),
            (Ok(1), Ok(4_294_967_295))
        );
        for wrong in ["0", "-1", "1.5", "", "x", "99999999999999999999"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert!(window("1").is_err() && tokens("4294967296").is_err());
        assert_eq!((share("0"), share_above_zero("1")), (Ok(0.0), Ok(1.0)));
        for wrong in ["nan", "inf", "-0.1", "1.1", ""] {
            assert!(share(wrong).is_err() && share_above_zero(wrong).is_err());
        }
        assert!(share_above_zero("0").is_err() && above_zero("0").is_err());
        assert!(at_least_zero("inf").is_err() && at_least_zero("-1").is_err());
    }
}
