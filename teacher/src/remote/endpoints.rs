//! Several servers of one model: the least busy is asked, one that fails is left out for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After so many failures in a row a server is left out.
const FAILURES: u32 = 3;
const FIRST_REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub struct Endpoints {
    all: Mutex<Vec<Endpoint>>,
}

#[derive(Debug)]
struct Endpoint {
    url: String,
    in_flight: usize,
    /// In a row.
    failures: u32,
    left_out_until: Option<Instant>,
    /// The server has asked for so much patience.
    not_before: Option<Instant>,
    has_answered: bool,
}

/// A server that has been chosen for one attempt.
#[derive(Debug, Clone)]
pub struct Chosen {
    number: usize,
    pub url: String,
    /// When it may be asked.
    pub at: Instant,
}

impl Endpoints {
    pub fn new(urls: &[String]) -> Self {
        let endpoint = |url: &String| Endpoint {
            url: url.trim_end_matches('/').to_owned(),
            in_flight: 0,
            failures: 0,
            left_out_until: None,
            not_before: None,
            has_answered: false,
        };
        let all = Mutex::new(urls.iter().map(endpoint).collect());
        Self { all }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Endpoint>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one to ask next; None only where there are none at all.
    pub fn choose(&self) -> Option<Chosen> {
        let now = Instant::now();
        let mut all = self.lock();
        let number = (0..all.len()).min_by_key(|&number| {
            let endpoint = &all[number];
            let wait = endpoint.not_before.filter(|&at| at > now);
            let left_out = endpoint.left_out_until.is_some_and(|until| until > now);
            (left_out, wait, endpoint.in_flight)
        })?;
        let endpoint = &mut all[number];
        endpoint.in_flight += 1;
        if endpoint.failures >= FAILURES {
            // One request finds out whether it is well again, not all of them.
            endpoint.left_out_until = Some(now + rest(endpoint.failures));
        }
        Some(Chosen {
            number,
            url: endpoint.url.clone(),
            at: endpoint.not_before.map_or(now, |at| at.max(now)),
        })
    }

    /// It has answered as it should, or has refused a request by its own lights.
    pub fn well(&self, chosen: &Chosen) {
        let endpoint = &mut self.lock()[chosen.number];
        if endpoint.failures >= FAILURES {
            tracing::info!("{} answers again", endpoint.url);
        }
        endpoint.in_flight -= 1;
        endpoint.failures = 0;
        endpoint.left_out_until = None;
        endpoint.has_answered = true;
    }

    /// It has failed; `not_before` is its own wish.
    pub fn failed(&self, chosen: &Chosen, not_before: Option<Instant>) {
        let mut all = self.lock();
        let several = all.len() > 1;
        let endpoint = &mut all[chosen.number];
        endpoint.in_flight -= 1;
        if not_before.is_some() {
            // It is there and asks for patience: that is no illness.
            endpoint.not_before = endpoint.not_before.max(not_before);
            endpoint.has_answered = true;
            return;
        }
        endpoint.failures = endpoint.failures.saturating_add(1);
        if endpoint.failures >= FAILURES {
            let rest = rest(endpoint.failures);
            if endpoint.failures == FAILURES && several {
                tracing::warn!(
                    "{} fails again and again: left out for {} s",
                    endpoint.url,
                    rest.as_secs()
                );
            }
            endpoint.left_out_until = Some(Instant::now() + rest);
        }
    }

    /// It was chosen and not asked.
    pub fn unused(&self, chosen: &Chosen) {
        self.lock()[chosen.number].in_flight -= 1;
    }

    /// Whether any of them has ever answered.
    pub fn any_has_answered(&self) -> bool {
        self.lock().iter().any(|endpoint| endpoint.has_answered)
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }
}

fn rest(failures: u32) -> Duration {
    let doubled = 1u32 << failures.saturating_sub(FAILURES).min(16);
    (FIRST_REST * doubled).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_busy_is_asked_and_a_failing_one_is_left_out() {
        let endpoints = Endpoints::new(&["http://a/v1/".into(), "http://b/v1".into()]);
        let choose = || endpoints.choose().unwrap();
        let (first, second) = (choose(), choose());
        assert_eq!(
            (first.url.as_str(), second.url.as_str()),
            ("http://a/v1", "http://b/v1")
        );
        endpoints.well(&second);
        assert!(endpoints.any_has_answered());
        endpoints.failed(&first, None);
        for _ in 1..FAILURES {
            endpoints.failed(&Chosen { ..choose() }, None);
        }
        // `a` has failed three times in a row: `b` is taken, however busy.
        let taken: Vec<String> = (0..4).map(|_| choose().url).collect();
        assert_eq!(taken, ["http://b/v1"; 4]);
    }

    #[test]
    fn one_that_asks_for_patience_gets_it() {
        let endpoints = Endpoints::new(&["http://a/v1".into(), "http://b/v1".into()]);
        let first = endpoints.choose().unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        endpoints.failed(&first, Some(later));
        let second = endpoints.choose().unwrap();
        assert_eq!(second.url, "http://b/v1");
        endpoints.failed(&second, Some(later + Duration::from_secs(1)));
        let third = endpoints.choose().unwrap();
        assert_eq!((third.url.as_str(), third.at), ("http://a/v1", later));
        // It is waited for rather than asking one that is ill.
        endpoints.well(&third);
        let ill = Endpoints::new(&["http://a/v1".into(), "http://b/v1".into()]);
        let patient = ill.choose().unwrap();
        ill.failed(&patient, Some(later));
        for _ in 0..FAILURES {
            ill.failed(&ill.choose().unwrap(), None);
        }
        assert_eq!(ill.choose().unwrap().url, "http://a/v1");
    }

    #[test]
    fn rests_double_up_to_a_limit() {
        assert_eq!(rest(3).as_secs(), 5);
        assert_eq!(rest(5).as_secs(), 20);
        assert_eq!(rest(1000), LONGEST_REST);
    }
}
