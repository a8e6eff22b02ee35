//! What can go wrong with a model behind a server.

use std::path::PathBuf;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum RemoteError {
    #[error(
        "{place} {reason}: there is no key for the server\n\
         hint: put the key there, or leave out `key` for a server that asks for none"
    )]
    NoKey { place: String, reason: String },

    #[error("cannot set up connections: {0}")]
    Setup(String),

    #[error(
        "{endpoint} cannot be reached: {reason}\n\
         hint: check `endpoints`, and that the server runs; an address ends with /v1"
    )]
    Unreachable { endpoint: String, reason: String },

    /// Another answer than 2xx that asking again would not change.
    #[error("{endpoint} refuses the request with status {status}: {message}{}", refused_hint(*.status))]
    Refused {
        endpoint: String,
        status: u16,
        message: String,
    },

    #[error("no answer after {attempts} attempts; the last: {last}")]
    GaveUp { attempts: u32, last: String },

    #[error("{endpoint} cannot {what}\nhint: {hint}")]
    Unable {
        endpoint: String,
        what: String,
        hint: String,
    },

    /// Of a text that was given as ids.
    #[error("{endpoint} has {told} at token {position} of the text, where {sent} was sent")]
    OtherTokens {
        endpoint: String,
        /// From 0.
        position: usize,
        sent: String,
        told: String,
    },

    #[error(
        "the budget of this stage is reached: {spent}, and the next request might take {next}, of {budget}\n\
         hint: all that was paid for is kept; raise `budget` and run the same command again to go on"
    )]
    Budget {
        spent: String,
        next: String,
        budget: String,
    },

    #[error("stopped")]
    Stopped,

    #[error("the stored answers in {}: {reason}", path.display())]
    Store { path: PathBuf, reason: String },
}

fn refused_hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "\nhint: the server takes this key for wrong, or asks for one: see `key`",
        402 => "\nhint: the account has nothing left to pay with",
        404 => "\nhint: check `model`, and that the endpoint ends with /v1",
        _ => "",
    }
}

impl RemoteError {
    /// Whether it is this request that the server does not take, and not every one.
    pub fn is_of_the_request(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 400 | 413 | 422,
                ..
            }
        )
    }

    /// Whether the same request may be answered another time.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::GaveUp { .. })
    }
}
