//! What a stage spends: counted before it is sent, settled when the answer is there, never above the budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::answer::Usage;
use super::config::Price;
use super::error::RemoteError;
use super::store::Store;

/// What a stage may cost in all its runs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Dollars, by the model's `price`. No limit when left out.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub dollars: Option<f64>,
    /// Tokens, read and written together. No limit when left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub tokens: Option<u64>,
}

/// Sums over the requests of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spending {
    /// Sent, retries included.
    pub requests: i64,
    pub retries: i64,
    pub answers: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub dollars: f64,
    /// The most that requests may have taken whose answer never came: they may have been paid for.
    pub possibly_tokens: i64,
    pub possibly_dollars: f64,
}

impl std::ops::AddAssign for Spending {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.retries += other.retries;
        self.answers += other.answers;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.dollars += other.dollars;
        self.possibly_tokens += other.possibly_tokens;
        self.possibly_dollars += other.possibly_dollars;
        if self.possibly_tokens == 0 {
            // What adding and taking away leaves of nothing.
            self.possibly_dollars = 0.0;
        }
    }
}

impl Spending {
    /// All tokens, those that may have been paid for included.
    fn tokens(&self) -> i64 {
        self.input_tokens + self.output_tokens + self.possibly_tokens
    }
}

/// The account of one stage.
pub struct Account {
    stage: String,
    store: Arc<Store>,
    price: Option<Price>,
    budget: Budget,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    spent: Spending,
    in_flight: usize,
}

/// A request that is under way. Dropped without an outcome it counts as lost.
pub struct Reservation<'a> {
    account: &'a Account,
    /// What it may take, as it was noted.
    estimate: Spending,
    sent: bool,
}

impl Account {
    /// # Errors
    /// [`RemoteError::Store`].
    pub fn open(
        stage: &str,
        store: Arc<Store>,
        price: Option<Price>,
        budget: Budget,
    ) -> Result<Self, RemoteError> {
        let mut spent = Spending::default();
        spent += store.spent(stage)?;
        Ok(Self {
            stage: stage.to_owned(),
            store,
            price,
            budget,
            state: Mutex::new(State {
                spent,
                in_flight: 0,
            }),
            changed: Notify::new(),
        })
    }

    pub fn stage(&self) -> &str {
        &self.stage
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In all runs of the stage so far.
    pub fn spent(&self) -> Spending {
        self.state().spent
    }

    fn dollars(&self, usage: Usage) -> f64 {
        self.price
            .map_or(0.0, |price| price.of(usage.input, usage.output))
    }

    /// Sets aside what a request may take at most. Where only requests under way stand against it, waits for them.
    ///
    /// # Errors
    /// [`RemoteError::Budget`] when the budget does not hold it.
    pub async fn reserve(&self, most: Usage) -> Result<Reservation<'_>, RemoteError> {
        let estimate = Spending {
            possibly_tokens: (most.input + most.output) as i64,
            possibly_dollars: self.dollars(most),
            ..Spending::default()
        };
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                let mut after = state.spent;
                after += estimate;
                if self.holds(&after) {
                    state.spent = after;
                    state.in_flight += 1;
                    let sent = false;
                    return Ok(Reservation {
                        account: self,
                        estimate,
                        sent,
                    });
                }
                if state.in_flight == 0 {
                    return Err(self.exceeded(&state.spent, &estimate));
                }
            }
            changed.await;
        }
    }

    fn holds(&self, spending: &Spending) -> bool {
        let dollars = spending.dollars + spending.possibly_dollars;
        let tokens = self
            .budget
            .tokens
            .map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        tokens.is_none_or(|most| spending.tokens() <= most)
            && self.budget.dollars.is_none_or(|most| dollars <= most)
    }

    fn exceeded(&self, spent: &Spending, next: &Spending) -> RemoteError {
        let described = |tokens: i64, dollars: f64| {
            let tokens = self.budget.tokens.map(|_| format!("{tokens} tokens"));
            let dollars = self.budget.dollars.map(|_| format!("${dollars:.4}"));
            tokens
                .into_iter()
                .chain(dollars)
                .collect::<Vec<_>>()
                .join(" and ")
        };
        let tokens = i64::try_from(self.budget.tokens.unwrap_or(0)).unwrap_or(i64::MAX);
        RemoteError::Budget {
            spent: described(spent.tokens(), spent.dollars + spent.possibly_dollars),
            next: described(next.possibly_tokens, next.possibly_dollars),
            budget: described(tokens, self.budget.dollars.unwrap_or(0.0)),
        }
    }

    fn settle(&self, change: Spending) {
        let mut state = self.state();
        state.spent += change;
        state.in_flight -= 1;
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Reservation<'_> {
    /// The request is about to go out. It is noted on the disk when this returns, so that even a crash leaves a trace of it.
    ///
    /// # Errors
    /// [`RemoteError::Store`].
    pub async fn sent(&mut self, is_retry: bool) -> Result<(), RemoteError> {
        let counted = Spending {
            requests: 1,
            retries: i64::from(is_retry),
            ..Spending::default()
        };
        let mut noted = counted;
        noted += self.estimate;
        let account = self.account;
        account.store.note(&account.stage, noted).await?;
        account.state().spent += counted;
        self.sent = true;
        Ok(())
    }

    fn without_estimate(&self) -> Spending {
        Spending {
            possibly_tokens: -self.estimate.possibly_tokens,
            possibly_dollars: -self.estimate.possibly_dollars,
            ..Spending::default()
        }
    }

    /// The answer is there and took this. What is returned belongs into the store, together with the answer.
    pub fn answered(self, usage: Usage) -> Spending {
        let mut change = self.without_estimate();
        change += Spending {
            answers: 1,
            input_tokens: usage.input as i64,
            output_tokens: usage.output as i64,
            dollars: self.account.dollars(usage),
            ..Spending::default()
        };
        self.account.settle(change);
        std::mem::forget(self);
        change
    }

    /// The server has refused: nothing is paid.
    ///
    /// # Errors
    /// [`RemoteError::Store`].
    pub async fn refused(self) -> Result<(), RemoteError> {
        let (account, change) = (self.account, self.without_estimate());
        account.settle(change);
        std::mem::forget(self);
        account.store.note(&account.stage, change).await
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let change = match self.sent {
            true => Spending::default(),
            false => self.without_estimate(),
        };
        self.account.settle(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(budget: Budget, price: Option<Price>) -> (tempfile::TempDir, Account) {
        let home = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&home.path().join("answers.sqlite")).unwrap());
        (home, Account::open("s", store, price, budget).unwrap())
    }

    fn usage(input: u64, output: u64) -> Usage {
        Usage { input, output }
    }

    fn block<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn the_budget_holds_and_says_so() {
        let budget = Budget {
            tokens: Some(100),
            dollars: None,
        };
        let (_home, account) = account(budget, None);
        block(async {
            let mut first = account
                .reserve(usage(10, 50))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            first.sent(false).await.unwrap();
            // It is on the disk before it goes out.
            assert_eq!(account.store.spent("s").unwrap().requests, 1);
            // The second waits for what the first does not use.
            let second = async {
                let mut second = account
                    .reserve(usage(10, 50))
                    .await
                    .unwrap_or_else(|e| panic!("{e}"));
                second.sent(true).await.unwrap();
                drop(second);
            };
            let finish = async { first.answered(usage(10, 5)) };
            let mut second = std::pin::pin!(second);
            let waiting = std::future::poll_fn(|context| {
                std::task::Poll::Ready(second.as_mut().poll(context).is_pending())
            });
            assert!(waiting.await);
            finish.await;
            second.await;
            // 15 are spent, and 60 may have been.
            let error = account
                .reserve(usage(10, 50))
                .await
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains("75 tokens") && error.contains("of 100 tokens"),
                "{error}"
            );
            let third = account
                .reserve(usage(10, 10))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            third.refused().await.unwrap();
        });
        let spent = account.spent();
        assert_eq!((spent.requests, spent.retries, spent.answers), (2, 1, 1));
        assert_eq!((spent.tokens(), spent.possibly_tokens), (75, 60));
    }

    #[test]
    fn money_is_counted_and_survives() {
        let price = Price {
            input: 1.0,
            output: 2.0,
        };
        let budget = Budget {
            dollars: Some(1.0),
            tokens: None,
        };
        let (_home, first) = account(budget, Some(price));
        block(async {
            let mut request = first
                .reserve(usage(200_000, 100_000))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            request.sent(false).await.unwrap();
            let change = request.answered(usage(200_000, 50_000));
            first
                .store()
                .put("k", &Default::default(), "s", change)
                .await
                .unwrap();
        });
        assert!((first.spent().dollars - 0.3).abs() < 1e-12);
        let residue = Spending {
            possibly_dollars: 1e-17,
            ..Spending::default()
        };
        block(first.store().note("s", residue)).unwrap();
        let again = Account::open("s", first.store.clone(), Some(price), budget).unwrap();
        let spent = again.spent();
        assert!((spent.dollars - 0.3).abs() < 1e-12 && spent.possibly_dollars == 0.0);
        let error = block(again.reserve(usage(0, 400_000)))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("$0.3000") && error.contains("$0.8000"),
            "{error}"
        );
    }
}
