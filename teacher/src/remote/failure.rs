//! Attempts that failed: which are tried again, and when.

use std::time::{Duration, SystemTime};

use datasets::random::Random;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::answer::error_message;

/// Why an attempt gave no answer.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// The server's own wish.
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection came about.
    Connect,
    /// It went out, and no whole answer came: a time-out, a cut stream, a malformed body, 408 or 5xx.
    Lost,
    /// 429: not now.
    TooMany,
    /// Any other status: the same request would be refused again.
    Refused(u16),
}

/// The longest wait before a retry that is ours to choose.
const LONGEST_WAIT: f64 = 30.0;

/// The longest that a server can make us wait.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

impl Failure {
    pub fn lost(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Lost,
            message: message.into(),
            retry_after: None,
        }
    }

    pub fn of_transport(error: &reqwest::Error) -> Self {
        let kind = match error.is_connect() {
            true => FailureKind::Connect,
            false => FailureKind::Lost,
        };
        Self {
            kind,
            message: innermost(error),
            retry_after: None,
        }
    }

    /// Of a status other than 2xx, with what the server says, after `clean`.
    pub fn of_status(
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        clean: impl Fn(&str) -> String,
    ) -> Self {
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let said = json.as_ref().and_then(|json| {
            let plain = || json.get("message").or(json.get("detail"));
            error_message(json).or_else(|| Some(plain()?.as_str()?.to_owned()))
        });
        let message = match said {
            Some(said) => clean(&said),
            None => shortened(&clean(&String::from_utf8_lossy(body))),
        };
        // An account without money answers 429, too; patience does not help.
        let is_broke = json
            .as_ref()
            .is_some_and(|json| json["error"]["code"] == "insufficient_quota");
        let kind = match status {
            429 if is_broke => FailureKind::Refused(402),
            429 => FailureKind::TooMany,
            408 | 500.. => FailureKind::Lost,
            other => FailureKind::Refused(other),
        };
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| {
            let wait = patience(value.to_str().ok()?, SystemTime::now())?;
            Some(wait.min(LONGEST_PATIENCE))
        });
        Self {
            kind,
            message: match message.is_empty() {
                true => format!("status {status}"),
                false => message,
            },
            retry_after,
        }
    }
}

/// `Retry-After`: seconds, or a date.
fn patience(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The wait before a retry: doubled each time, and jittered so that requests that failed together do not come back
/// together.
pub fn backoff(first: f64, attempt: u32, key: &str) -> Duration {
    let longest = (first * 2f64.powi(attempt.min(30) as i32)).min(LONGEST_WAIT.max(first));
    let jitter = Random::new(0, key, u64::from(attempt), "retry").f64();
    Duration::from_secs_f64(longest * (0.5 + jitter / 2.0))
}

/// The cause that says what happened: "Connection refused" and not "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The beginning of what may be a whole web page.
fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Failure {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "2".parse().unwrap());
        Failure::of_status(status, &headers, body.as_bytes(), str::to_owned)
    }

    #[test]
    fn statuses_say_what_to_do() {
        for (status, kind) in [
            (400, FailureKind::Refused(400)),
            (404, FailureKind::Refused(404)),
            (408, FailureKind::Lost),
            (429, FailureKind::TooMany),
            (500, FailureKind::Lost),
            (529, FailureKind::Lost),
        ] {
            assert_eq!(of(status, "").kind, kind);
        }
        let broke = of(
            429,
            r#"{"error":{"code":"insufficient_quota","message":"pay"}}"#,
        );
        assert_eq!(
            (broke.kind, broke.message.as_str()),
            (FailureKind::Refused(402), "pay")
        );
        assert_eq!(
            of(429, "slow down").retry_after,
            Some(Duration::from_secs(2))
        );
        assert_eq!(of(404, r#"{"detail":"no route"}"#).message, "no route");
        assert_eq!(of(404, &"x".repeat(9999)).message.chars().count(), 302);
    }

    #[test]
    fn patience_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 26 Jul 2024 00:00:00 GMT").unwrap();
        let seconds = |text| patience(text, now).map(|wait| wait.as_secs_f64());
        assert_eq!(seconds("1.5"), Some(1.5));
        assert_eq!(seconds("Fri, 26 Jul 2024 00:01:00 GMT"), Some(60.0));
        assert_eq!(seconds("Wed, 26 Jul 2023 00:01:00 GMT"), Some(0.0));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn waits_double_and_differ() {
        for attempt in 0..12 {
            let wait = backoff(0.5, attempt, "k").as_secs_f64();
            let most = (0.5 * 2f64.powi(attempt as i32)).min(30.0);
            assert!(wait >= most / 2.0 && wait <= most, "{attempt}: {wait}");
        }
        assert_ne!(backoff(0.5, 3, "k"), backoff(0.5, 3, "l"));
    }
}
