//! How a request reaches the daemon's one loop, and its answer comes back.
//!
//! The loop holds the [`mpsc::Receiver`] of [`channel`] and answers each
//! [`Call`] on the call's own channel. A caller that has gone away is no error:
//! sending to it just fails.

use super::api::{Moved, ServerOrder, SessionsDoc, StatusDoc, Which};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for the loop. Every waiting call has a client behind it
/// that waits too, so a short queue loses nothing.
const WAITING: usize = 32;

/// The loop answers within milliseconds; a caller that waited this long tells
/// its client that something is wrong.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A switchover waits for another node, and a reload for name servers.
pub const ORDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the daemon will not do what was asked, in a sentence or several lines.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<T>;

/// A question or an order to the daemon's loop.
#[derive(Debug)]
pub enum Call {
    /// The whole state.
    Status {
        /// Takes the state.
        reply: Reply<StatusDoc>,
    },
    /// Why things are as they are.
    Why {
        /// A VIP, `POOL/SERVER`, or everything.
        subject: Option<String>,
        /// Takes sentences, one a line; refused if there is no such subject.
        reply: Reply<Result<String, Refusal>>,
    },
    /// Hands a VIP over; answered when it is owned elsewhere.
    Switchover {
        /// The VIP; every VIP this node owns when absent.
        vip: Option<String>,
        /// The node that takes it; the next by preference when absent.
        to: Option<String>,
        /// Takes what moved.
        reply: Reply<Result<Vec<Moved>, Refusal>>,
    },
    /// Reads the configuration file again.
    Reload {
        /// Nothing is changed; the answer is what would be.
        dry_run: bool,
        /// Takes what changed, in a sentence; or the errors, one a line.
        reply: Reply<Result<String, Refusal>>,
    },
    /// Takes this node out of the election, answered when it owns nothing any
    /// more, or puts it back.
    Maintenance {
        /// Out, or back.
        on: bool,
        /// Takes what was done, in a sentence.
        reply: Reply<Result<String, Refusal>>,
    },
    /// Takes a server out of its pool, or puts it back.
    Server {
        /// The pool.
        pool: String,
        /// The server in it.
        server: String,
        /// What it is to be.
        state: ServerOrder,
        /// Takes what was done, in a sentence, and a warning in a second line.
        reply: Reply<Result<String, Refusal>>,
    },
    /// Lists sessions.
    Sessions {
        /// Those that are wanted.
        which: Which,
        /// Takes them; refused if there is nothing of that name.
        reply: Reply<Result<SessionsDoc, Refusal>>,
    },
    /// Ends sessions.
    Kill {
        /// Those that end.
        which: Which,
        /// Takes how many ended, in a sentence; refused if there is nothing of that name.
        reply: Reply<Result<String, Refusal>>,
    },
    /// Gives a server another weight.
    Weight {
        /// The pool.
        pool: String,
        /// The server in it.
        server: String,
        /// The weight; that of the file again when absent.
        weight: Option<u16>,
        /// Takes what was done, in a sentence, and a warning in a second line.
        reply: Reply<Result<String, Refusal>>,
    },
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The loop has ended, or drops what it is asked because it is about to.
    #[error("vipd is stopping")]
    Stopping,
    /// The loop did not answer in time.
    #[error("vipd's main loop did not answer in time: see its log")]
    Timeout,
}

/// The callers' end.
#[derive(Clone, Debug)]
pub struct Calls(mpsc::Sender<Call>);

/// Both ends: for the control plane, and for the loop.
#[must_use]
pub fn channel() -> (Calls, mpsc::Receiver<Call>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Calls(sender), receiver)
}

impl Calls {
    /// Puts a call and waits for its answer.
    ///
    /// # Errors
    /// The loop has ended, or did not answer within `limit`.
    pub async fn ask<T>(&self, limit: Duration, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.0.send(call(reply)).await.map_err(|_| CallError::Stopping)?;
            answer.await.map_err(|_| CallError::Stopping)
        };
        tokio::time::timeout(limit, asked).await.unwrap_or(Err(CallError::Timeout))
    }

    /// The whole state.
    ///
    /// # Errors
    /// The loop has ended, or did not answer in time.
    pub async fn status(&self) -> Result<StatusDoc, CallError> {
        self.ask(ANSWER_TIMEOUT, |reply| Call::Status { reply }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_answer_is_told_apart_from_one_that_ended() {
        let (calls, mut receiver) = channel();
        assert_eq!(calls.status().await, Err(CallError::Timeout), "nobody reads");

        let Some(Call::Status { reply }) = receiver.recv().await else { panic!("the call was not queued") };
        assert!(reply.is_closed(), "the caller has gone, and the loop can see it");

        let (answer, ()) = tokio::join!(calls.status(), async {
            drop(receiver.recv().await);
        });
        assert_eq!(answer, Err(CallError::Stopping), "the loop dropped the call");

        drop(receiver);
        assert_eq!(calls.status().await, Err(CallError::Stopping));
    }
}
