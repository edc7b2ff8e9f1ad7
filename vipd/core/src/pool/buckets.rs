//! Consistent hashing: which server a client has by its address.
//!
//! Clients are hashed to a fixed number of buckets. Every server visits all
//! buckets in an order of its own, which follows from its name alone, and at
//! the pace of its weight; a bucket belongs to the server that comes first.
//! (This is weighted rendezvous hashing, computed for all buckets at once: the
//! times of the visits are distributed exponentially, with the weight as their rate,
//! and so the chance to be first is in proportion to the weight.)
//!
//! So when a server goes, be it from the list or from the usable ones, each of
//! its buckets falls to the one that comes second there, and no other bucket
//! changes hands: exactly its own clients move. A server that comes takes
//! buckets, and leaves the rest as it was; more weight only takes, less only
//! gives. Nothing depends on the order in the file or on the past, so all
//! proxies with the same servers agree.
//!
//! The share of a server is a matter of chance, as with any such hash: a share
//! s has a standard deviation of `sqrt(s / BUCKETS)`: 0.3 of a hundred for one
//! of three servers of equal weight, and 18 of a hundred of its share for one
//! of a thousand.

/// Buckets of a tier (a power of 2): at 4 bytes each 128 KiB.
const BUCKETS: u32 = 1 << 15;
const MASK: u32 = BUCKETS - 1;
/// Half of the bits of a bucket's number, rounded up: a shift by so many is
/// undone by the same shift.
const HALF: u32 = BUCKETS.ilog2().div_ceil(2);
/// An odd number, and the one that undoes a multiplication with it.
const STIR: u32 = 0x2c1b_3c6d;
const UNSTIR: u32 = inverse(STIR);

/// Visits per bucket, on average, that are made in order. About one in `e^6`
/// = 403 buckets has had none then, and is asked for by itself.
const VISITS: u64 = 6;

/// When a server of weight 1 makes each step: where `BUCKETS` exponentially
/// distributed times are expected when they are sorted. In integers, because
/// all proxies must agree to the last bit.
static TIMES: [u32; BUCKETS as usize] = times();
/// The time of the first step, which is the shortest.
const STEP: u32 = (1 << 28) / BUCKETS;

const fn times() -> [u32; BUCKETS as usize] {
    let mut times = [0; BUCKETS as usize];
    let mut step = 1;
    while step < BUCKETS {
        times[step as usize] = times[step as usize - 1] + (1 << 28) / (BUCKETS + 1 - step);
        step += 1;
    }
    times
}

/// The bits of a time that hold a rank: for more servers than there can be.
/// Two steps of a server of weight 256 lie 2^37 apart.
const RANKS: u64 = (1 << 24) - 1;

/// Who owns each bucket; nobody where there are no servers.
#[derive(Debug)]
pub(super) struct Buckets(Vec<u32>);

/// A server on its way through the buckets.
struct Visitor {
    server: u32,
    /// Its place among the servers, sorted by the hash of the name: of two
    /// that come at the same time the lower one is first.
    rank: u64,
    /// What a step takes it, in inverse proportion to its weight.
    pace: u64,
    /// What its order follows from.
    start: u32,
    factor: u32,
    back: u32,
}

impl Buckets {
    /// Buckets of `members`, of which the weight and the hash of the name are told.
    pub(super) fn new(members: &[u32], of: impl Fn(u32) -> (u16, u64)) -> Self {
        let visitors = Visitor::all(members, &of);
        let sum: u64 = members.iter().map(|m| u64::from(of(*m).0)).sum();
        let mut firsts = vec![u64::MAX; BUCKETS as usize];
        // All visits before this time are made.
        let mut made = u64::MAX;
        for visitor in &visitors {
            let weight = u64::from(of(visitor.server).0);
            let share = VISITS * u64::from(BUCKETS) * weight / sum.max(1) + 1;
            let steps = u32::try_from(share).unwrap_or(BUCKETS).min(BUCKETS);
            for step in 0..steps {
                let first = &mut firsts[visitor.bucket(step) as usize];
                *first = visitor.time(step).min(*first);
            }
            if steps < BUCKETS {
                made = made.min(visitor.time(steps));
            }
        }
        for (bucket, first) in (0..).zip(&mut firsts) {
            if *first >= made {
                let visits = visitors.iter().map(|v| v.time(v.step(bucket)));
                *first = visits.min().unwrap_or(*first);
            }
        }
        let server = |first: u64| visitors.get((first & RANKS) as usize).map(|v| v.server);
        Self(firsts.into_iter().filter_map(server).collect())
    }

    /// The server of a client, by the client's hash.
    pub(super) fn owner(&self, hash: u64) -> Option<u32> {
        self.0.get((hash & u64::from(MASK)) as usize).copied()
    }
}

impl Visitor {
    fn all(members: &[u32], of: impl Fn(u32) -> (u16, u64)) -> Vec<Self> {
        let mut sorted = members.to_vec();
        sorted.sort_by_key(|m| of(*m).1);
        (0..).zip(sorted).map(|(rank, server)| Self::new(rank, server, of(server))).collect()
    }

    fn new(rank: u64, server: u32, (weight, hash): (u16, u64)) -> Self {
        let factor = (hash >> 32) as u32 | 1;
        let pace = u64::from(u32::MAX / u32::from(weight.max(1)));
        Self { server, rank, pace, start: hash as u32 & MASK, factor, back: inverse(factor) }
    }

    /// When it makes a step, with its rank in the lowest bits. Within the step
    /// each has a moment of its own, so that of two with equal steps not
    /// always the same is first.
    fn time(&self, step: u32) -> u64 {
        let moment = self.factor.wrapping_mul(step + 1) >> 16 & (STEP - 1);
        let time = u64::from(TIMES[step as usize] + moment) * self.pace;
        (time & !RANKS) | self.rank
    }

    /// The bucket of a step. Each operation can be undone (modulo [`BUCKETS`]),
    /// so that each bucket is visited once.
    fn bucket(&self, step: u32) -> u32 {
        let mut x = step.wrapping_add(self.start).wrapping_mul(self.factor) & MASK;
        x ^= x >> HALF;
        x = x.wrapping_mul(STIR) & MASK;
        x ^= x >> HALF;
        x
    }

    /// The step that visits a bucket.
    fn step(&self, bucket: u32) -> u32 {
        let mut x = bucket ^ (bucket >> HALF);
        x = x.wrapping_mul(UNSTIR) & MASK;
        x ^= x >> HALF;
        x.wrapping_mul(self.back).wrapping_sub(self.start) & MASK
    }
}

/// The number that undoes a multiplication with an odd one, modulo 2^32:
/// Newton's method, which doubles the bits that are right (3 at first).
const fn inverse(odd: u32) -> u32 {
    let mut x = odd;
    let mut bits = 3;
    while bits < u32::BITS {
        x = x.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(x)));
        bits *= 2;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_step_and_its_bucket_lead_to_each_other(hash in any::<u64>(), step in 0..BUCKETS) {
            let visitor = Visitor::new(0, 0, (1, hash));
            let bucket = visitor.bucket(step);
            prop_assert!(bucket < BUCKETS);
            prop_assert_eq!(visitor.step(bucket), step);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// The way in which the owners are found changes nothing of who they are.
        #[test]
        fn the_first_visitor_owns_a_bucket(servers in prop::collection::vec((1_u16..=256, any::<u64>()), 1..40)) {
            let members: Vec<u32> = (0..).zip(&servers).map(|(i, _)| i).collect();
            let buckets = Buckets::new(&members, |m| servers[m as usize]);
            let visitors = Visitor::all(&members, |m| servers[m as usize]);
            for bucket in 0..BUCKETS {
                let first = visitors.iter().min_by_key(|v| v.time(v.step(bucket))).map(|v| v.server);
                prop_assert_eq!(buckets.owner(bucket.into()), first);
            }
        }
    }
}
