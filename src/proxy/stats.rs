//! Counters of one proxy, one set a worker so that no two cores write the same cache line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets for connects, in microseconds.
const CONNECT_BOUNDS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of the buckets for connections, in microseconds: a hundredth of a second to a day.
const LIFE_BOUNDS: &[u64] = &[
    10_000,
    100_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    14_400_000_000,
    86_400_000_000,
];

/// What one worker counts for one proxy.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    pub accepted: Counter,
    /// Taken over from the last incarnation.
    pub adopted: Counter,
    /// Ended in an orderly way while the proxy drained.
    pub drained: Counter,
    /// Cut at the deadline.
    pub cut: Counter,
    /// Let go because no upstream took them.
    pub failed: Counter,
    pub bytes_to_upstream: Counter,
    pub bytes_to_client: Counter,
    /// From the start of a connect until it was established.
    pub connects: Histogram<{ CONNECT_BOUNDS.len() }>,
    /// From the accept until the end, of connections that had an upstream.
    pub lives: Histogram<{ LIFE_BOUNDS.len() }>,
}

/// A sum that one worker writes and anybody reads.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often something took how long: a count a bucket, and one for what is above the last bound.
pub struct Histogram<const N: usize> {
    buckets: [Counter; N],
    above: Counter,
    /// In microseconds.
    sum: Counter,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Histogram {
            buckets: std::array::from_fn(|_| Counter::default()),
            above: Counter::default(),
            sum: Counter::default(),
        }
    }
}

impl Histogram<{ CONNECT_BOUNDS.len() }> {
    pub fn add_connect(&self, took: Duration) {
        self.add(CONNECT_BOUNDS, took);
    }
}

impl Histogram<{ LIFE_BOUNDS.len() }> {
    pub fn add_life(&self, took: Duration) {
        self.add(LIFE_BOUNDS, took);
    }
}

impl<const N: usize> Histogram<N> {
    fn add(&self, bounds: &[u64], took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum.add(took);
        let bucket = bounds.partition_point(|bound| *bound < took);
        self.buckets.get(bucket).unwrap_or(&self.above).add(1);
    }
}

/// A histogram over all workers, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Each upper bound in seconds, with how often it took that long or less.
    pub buckets: Vec<(f64, u64)>,
    /// How often at all.
    pub count: u64,
    /// All together, in seconds.
    pub sum: f64,
}

impl Distribution {
    /// How long connects took.
    pub fn of_connects(workers: &[Counters]) -> Distribution {
        Distribution::of(CONNECT_BOUNDS, workers.iter().map(|worker| &worker.connects))
    }

    /// How long connections lived.
    pub fn of_lives(workers: &[Counters]) -> Distribution {
        Distribution::of(LIFE_BOUNDS, workers.iter().map(|worker| &worker.lives))
    }

    fn of<'a, const N: usize>(
        bounds: &[u64],
        workers: impl Iterator<Item = &'a Histogram<N>> + Clone,
    ) -> Distribution {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let all = |bucket: usize| workers.clone().map(|w| w.buckets[bucket].get()).sum::<u64>();
        let mut count = 0;
        let mut buckets = Vec::with_capacity(N);
        for (bucket, bound) in bounds.iter().enumerate() {
            count += all(bucket);
            buckets.push((seconds(*bound), count));
        }
        count += workers.clone().map(|w| w.above.get()).sum::<u64>();
        Distribution { buckets, count, sum: seconds(workers.map(|w| w.sum.get()).sum()) }
    }
}

/// The sums over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Taken off a backlog.
    pub accepted: u64,
    /// Taken over from the last incarnation.
    pub adopted: u64,
    /// Ended in an orderly way while the proxy drained.
    pub drained: u64,
    /// Cut at the deadline.
    pub cut: u64,
    /// Let go because no upstream took them.
    pub failed: u64,
    /// Payload that went to upstreams.
    pub bytes_to_upstream: u64,
    /// Payload that went to clients.
    pub bytes_to_client: u64,
}

impl Totals {
    /// Adds up what the workers counted.
    pub fn of(workers: &[Counters]) -> Totals {
        let sum = |field: fn(&Counters) -> &Counter| workers.iter().map(|w| field(w).get()).sum();
        Totals {
            accepted: sum(|w| &w.accepted),
            adopted: sum(|w| &w.adopted),
            drained: sum(|w| &w.drained),
            cut: sum(|w| &w.cut),
            failed: sum(|w| &w.failed),
            bytes_to_upstream: sum(|w| &w.bytes_to_upstream),
            bytes_to_client: sum(|w| &w.bytes_to_client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_and_with_each_bound_over_all_workers() {
        let workers = [Counters::default(), Counters::default()];
        let micros = [0, 100, 101, 10_000_000, 10_000_001];
        for (number, took) in micros.into_iter().enumerate() {
            workers[number % 2].connects.add_connect(Duration::from_micros(took));
        }
        let told = Distribution::of_connects(&workers);
        assert_eq!(told.buckets[..3], [(0.0001, 2), (0.00025, 3), (0.0005, 3)]);
        assert_eq!(told.buckets.last(), Some(&(10.0, 4)));
        assert_eq!((told.count, told.sum), (5, micros.iter().sum::<u64>() as f64 / 1e6));
    }

    #[test]
    fn what_is_too_long_for_any_bucket_is_counted_all_the_same() {
        let workers = [Counters::default()];
        workers[0].lives.add_life(Duration::from_secs(90_000));
        let told = Distribution::of_lives(&workers);
        assert_eq!((told.buckets.last(), told.count, told.sum), (Some(&(86_400.0, 0)), 1, 90_000.0));
    }

    #[test]
    fn bounds_rise() {
        for bounds in [CONNECT_BOUNDS, LIFE_BOUNDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
