//! Answers that a client got, and the gaps between them.

use crate::lab::process::lock;
use anyhow::{Context, Result, bail};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it arrived.
    pub at: Instant,
    /// Who gave it.
    pub by: Arc<str>,
}

/// Two answers that followed each other.
#[derive(Clone, Debug)]
pub struct Gap {
    /// When the last answer before it arrived.
    pub from: Instant,
    /// How long no answer came.
    pub length: Duration,
    /// Who answered last.
    pub before: Arc<str>,
    /// Who answered then; nobody yet when absent.
    pub after: Option<Arc<str>>,
}

/// The answers a client got so far.
#[derive(Debug, Default)]
pub struct Answers {
    list: Mutex<Vec<Answer>>,
    arrived: Condvar,
}

impl Answers {
    pub(super) fn push(&self, by: &Arc<str>) {
        lock(&self.list).push(Answer { at: Instant::now(), by: Arc::clone(by) });
        self.arrived.notify_all();
    }

    /// Waits for an answer by `name` that arrives from now on.
    ///
    /// # Errors
    /// If none comes within `patience`.
    pub fn wait_for(&self, name: &str, patience: Duration) -> Result<Answer> {
        self.wait_until(patience, |answer| &*answer.by == name)
            .with_context(|| format!("no answer by {name} within {patience:?}"))
    }

    /// Waits for an answer by anybody that arrives from now on.
    ///
    /// # Errors
    /// If none comes within `patience`.
    pub fn wait_for_any(&self, patience: Duration) -> Result<Answer> {
        self.wait_until(patience, |_| true).with_context(|| format!("no answer within {patience:?}"))
    }

    fn wait_until(&self, patience: Duration, wanted: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let deadline = Instant::now() + patience;
        let mut answers = lock(&self.list);
        let mut seen = answers.len();
        loop {
            if let Some(found) = answers[seen..].iter().find(|a| wanted(a)) {
                return Ok(found.clone());
            }
            seen = answers.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the last answer was {:?}", answers.last().map(|a| (a.at.elapsed(), &a.by)));
            }
            let waited = self.arrived.wait_timeout(answers, left);
            answers = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// The answers since a point in time.
    #[must_use]
    pub fn since(&self, since: Instant) -> Vec<Answer> {
        lock(&self.list).iter().filter(|a| a.at >= since).cloned().collect()
    }

    /// The longest time without an answer that ended after `since` or has not
    /// ended; nothing if there never was an answer.
    #[must_use]
    pub fn longest_gap(&self, since: Instant) -> Option<Gap> {
        let answers = lock(&self.list);
        let last = answers.last()?;
        let open =
            Gap { from: last.at, length: last.at.elapsed(), before: Arc::clone(&last.by), after: None };
        let gaps = answers.windows(2).filter(|w| w[1].at >= since).map(|w| Gap {
            from: w[0].at,
            length: w[1].at.saturating_duration_since(w[0].at),
            before: Arc::clone(&w[0].by),
            after: Some(Arc::clone(&w[1].by)),
        });
        gaps.chain([open]).max_by_key(|g| g.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_may_be_the_one_that_lasts() -> Result<()> {
        let answers = Answers::default();
        let start = Instant::now();
        assert!(answers.longest_gap(start).is_none());
        let (px1, px2): (Arc<str>, Arc<str>) = ("px1".into(), "px2".into());
        answers.push(&px1);
        std::thread::sleep(Duration::from_millis(20));
        answers.push(&px2);
        let gap = answers.longest_gap(start).context("a gap")?;
        assert!(gap.length >= Duration::from_millis(20) && gap.after.as_deref() == Some("px2"), "{gap:?}");
        std::thread::sleep(gap.length + Duration::from_millis(1));
        let gap = answers.longest_gap(start).context("a gap")?;
        assert!(gap.after.is_none() && &*gap.before == "px2", "{gap:?}");
        Ok(())
    }
}
