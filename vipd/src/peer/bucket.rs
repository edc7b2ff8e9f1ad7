//! So many a second, and no more.

use std::time::Duration;
use vipd_core::time::Time;

/// A token bucket: `burst` at once, then `rate` a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    each: Duration,
    /// How far the mark may lie behind the present.
    depth: Duration,
    /// The time at which the last token was earned; the bucket is full when it lies `depth` back.
    mark: Option<Time>,
}

impl Bucket {
    pub(crate) fn new((rate, burst): (u32, u32)) -> Self {
        let each = Duration::from_secs(1) / rate.max(1);
        Self { each, depth: each * burst, mark: None }
    }

    pub(crate) fn take(&mut self, now: Time) -> bool {
        let full = now.before(self.depth);
        let mark = self.mark.map_or(full, |mark| mark.max(full));
        let taken = mark + self.each;
        // Before the system is as old as the bucket is deep, it starts empty in part.
        let there = taken <= now;
        self.mark = Some(if there { taken } else { mark });
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new((4, 8));
        let at = |ms| Time::ZERO + Duration::from_secs(100) + Duration::from_millis(ms);
        let taken = |bucket: &mut Bucket, ms| (0..100).filter(|_| bucket.take(at(ms))).count();
        assert_eq!(taken(&mut bucket, 0), 8);
        assert_eq!(taken(&mut bucket, 249), 0);
        assert_eq!(taken(&mut bucket, 250), 1);
        assert_eq!(taken(&mut bucket, 1_250), 4);
        assert_eq!(taken(&mut bucket, 60_000), 8, "no more than it holds");
    }
}
