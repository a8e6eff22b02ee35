//! Rate limits kept: requests and tokens are spread evenly over the minute.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When the next request may go out.
#[derive(Debug)]
pub struct Pace {
    requests_per_minute: Option<f64>,
    tokens_per_minute: Option<f64>,
    next: Mutex<Next>,
}

#[derive(Debug)]
struct Next {
    request: Instant,
    tokens: Instant,
}

impl Pace {
    pub fn new(requests_per_minute: Option<f64>, tokens_per_minute: Option<f64>) -> Self {
        let now = Instant::now();
        Self {
            requests_per_minute,
            tokens_per_minute,
            next: Mutex::new(Next {
                request: now,
                tokens: now,
            }),
        }
    }

    /// When the turn of a request comes that may take so many tokens. Evenly spread requests never exceed the limit in
    /// any minute, whenever the server's minute begins.
    pub fn turn(&self, tokens: u64) -> Instant {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.max(next.request).max(next.tokens);
        if let Some(limit) = self.requests_per_minute {
            next.request = at + minutes(1.0 / limit);
        }
        if let Some(limit) = self.tokens_per_minute {
            next.tokens = at + minutes(tokens as f64 / limit);
        }
        at
    }

    /// Gives back what a request did not take.
    pub fn settle(&self, reserved: u64, taken: u64) {
        if let Some(limit) = self.tokens_per_minute {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let unused = minutes(reserved.saturating_sub(taken) as f64 / limit);
            next.tokens = next.tokens.checked_sub(unused).unwrap_or(next.tokens);
            next.tokens += minutes(taken.saturating_sub(reserved) as f64 / limit);
        }
    }
}

/// At most a year: the clock does not count on for ever.
fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64((minutes * 60.0).clamp(0.0, 3.2e7))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until the turn of the last of so many requests.
    fn last(pace: &Pace, requests: usize, tokens: u64) -> f64 {
        let start = Instant::now();
        let turns: Vec<Instant> = (0..requests).map(|_| pace.turn(tokens)).collect();
        assert!(turns.is_sorted());
        turns[requests - 1].duration_since(start).as_secs_f64()
    }

    #[test]
    fn requests_and_tokens_are_spread() {
        let near = |seconds: f64, expected: f64| {
            assert!(
                (seconds - expected).abs() < 0.5,
                "{seconds} and not {expected}"
            );
        };
        near(last(&Pace::new(Some(600.0), None), 101, 5), 10.0);
        near(last(&Pace::new(None, Some(60_000.0)), 101, 100), 10.0);
        near(
            last(&Pace::new(Some(600.0), Some(6_000.0)), 101, 100),
            100.0,
        );
        near(last(&Pace::new(None, None), 101, 100), 0.0);
    }

    #[test]
    fn what_was_not_taken_is_given_back() {
        let pace = Pace::new(None, Some(60_000.0));
        let start = Instant::now();
        for _ in 0..10 {
            pace.turn(5000);
            pace.settle(5000, 100);
        }
        let waited = pace.turn(1).duration_since(start).as_secs_f64();
        assert!((waited - 1.0).abs() < 0.5, "{waited}");
    }
}
