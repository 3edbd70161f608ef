//! `Idempotency-Key`: a retry after a cut gets the first answer.

use alloc::collections::VecDeque;
use alloc::string::String;

use api::{Code, Problem};

use super::dispatch::Then;
use crate::http::reply::Reply;
use crate::operations::OperationId;

/// How long an answer is kept, in nanoseconds.
const KEPT_NS: u64 = 600_000_000_000;
/// Most answers that are kept.
const KEPT_MAX: usize = 64;
/// Longest body of an answer that is kept, in bytes.
const BODY_MAX: usize = 16 << 10;
/// Longest key, in bytes.
const KEY_MAX: usize = 128;

/// What became of a request with a key.
#[derive(Debug)]
struct Entry {
    key: String,
    request: [u8; 32],
    since_ns: u64,
    outcome: Outcome,
}

/// How far a request with a key is.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Being looked at.
    Begun,
    /// Waiting for an operation.
    Waiting(OperationId, Then),
    /// Answered.
    Answered(Reply),
}

/// A request's hold on its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim(String);

/// The keys that were used lately.
#[derive(Debug, Default)]
pub(super) struct Idempotency {
    entries: VecDeque<Entry>,
}

impl Idempotency {
    /// Claims `key` for a request whose method, path and body have the digest `request`,
    /// or tells how far the request is that claimed it before.
    pub(super) fn claim(
        &mut self,
        key: &str,
        request: [u8; 32],
        now_ns: u64,
    ) -> Result<(Claim, Outcome), Problem> {
        if key.is_empty() || key.len() > KEY_MAX {
            return Err(Problem::new(
                Code::BadRequest,
                alloc::format!("an Idempotency-Key has 1 to {KEY_MAX} bytes"),
            ));
        }
        self.entries
            .retain(|entry| now_ns.saturating_sub(entry.since_ns) < KEPT_NS);
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            if entry.request != request {
                return Err(Problem::new(
                    Code::KeyReused,
                    "another request used this Idempotency-Key in the last ten minutes",
                )
                .hint("use a new key for every new request"));
            }
            return Ok((Claim(key.into()), entry.outcome.clone()));
        }
        if self.entries.len() >= KEPT_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            key: key.into(),
            request,
            since_ns: now_ns,
            outcome: Outcome::Begun,
        });
        Ok((Claim(key.into()), Outcome::Begun))
    }

    /// Keeps the answer to the request that made `claim`. What may be tried again, and
    /// what is too large, is not kept: then the key is free again.
    pub(super) fn settle(&mut self, claim: &Claim, answer: &Reply) {
        let keep = answer.body.len() <= BODY_MAX && answer.status < 500;
        let Some(index) = self.entries.iter().position(|e| e.key == claim.0) else {
            return;
        };
        if keep {
            if let Some(entry) = self.entries.get_mut(index) {
                entry.outcome = Outcome::Answered(answer.clone());
            }
        } else {
            self.entries.remove(index);
        }
    }

    /// Says what the request that made `claim` waits for, so that a retry waits for it too.
    pub(super) fn wait(&mut self, claim: &Claim, operation: OperationId, then: &Then) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.key == claim.0) {
            entry.outcome = Outcome::Waiting(operation, then.clone());
        }
    }
}
