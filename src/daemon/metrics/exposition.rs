//! The figures in the text format of Prometheus: names, units and help, as docs/metrics.md lists them.
//!
//! A pure function of a snapshot. Labels are names of the configuration, so that their number is bounded
//! by it: never what a client sends or is.

use std::collections::BTreeMap;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{TEXT_FORMAT, TextEncoder};

use crate::control::status::{ProxyStatus, State, Status, UpstreamState};
use crate::proxy::Distribution;

/// As the header has it.
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

/// What is told.
pub struct Figures {
    pub status: Status,
    /// Seconds since 1970.
    pub started: f64,
    pub room: u32,
    pub log_written: u64,
    pub log_dropped: u64,
    /// What of a proxy is not in the status, by its name.
    pub proxies: BTreeMap<String, Of>,
}

/// Of one proxy.
pub struct Of {
    pub adopted: u64,
    pub limit: Option<u32>,
    pub connects: Distribution,
    pub lives: Distribution,
}

/// The names of all metrics, those that are there only sometimes included.
pub const NAMES: &[&str] = &[
    "drained_build_info",
    "drained_start_time_seconds",
    "drained_state",
    "drained_connections_limit",
    "drained_listeners_adopted_total",
    "drained_handover_pause_seconds",
    "drained_log_records_total",
    "drained_log_dropped_total",
    "drained_connections_active",
    "drained_connections_held",
    "drained_connections_accepted_total",
    "drained_connections_adopted_total",
    "drained_connections_drained_total",
    "drained_connections_cut_total",
    "drained_connections_failed_total",
    "drained_proxy_connections_limit",
    "drained_relayed_bytes_total",
    "drained_connect_duration_seconds",
    "drained_connection_duration_seconds",
    "drained_upstream_up",
    "drained_upstream_drained",
    "drained_upstream_connections",
];

/// The whole text.
pub fn text(figures: &Figures) -> String {
    let mut families = of_daemon(figures);
    families.extend(of_proxies(figures));
    families.extend(of_upstreams(&figures.status));
    families.retain(|family| !family.get_metric().is_empty());
    // It fails for a family without a name or a metric, and there is none.
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

fn of_daemon(figures: &Figures) -> Vec<MetricFamily> {
    let Figures { status, started, room, log_written, log_dropped, .. } = figures;
    let all = [State::Starting, State::Running, State::Reloading, State::Draining, State::HandingOver];
    let is = |state: &State| gauge(f64::from(u8::from(*state == status.state)), &[("state", state.word())]);
    let pause = status.adopted.pause_ms.map(|ms| gauge(ms as f64 / 1e3, &[]));
    vec![
        gauges(
            "drained_build_info",
            "The version that runs, always 1.",
            vec![gauge(1.0, &[("version", status.version.as_str())])],
        ),
        gauges(
            "drained_start_time_seconds",
            "When the process started, in seconds since 1970.",
            vec![gauge(*started, &[])],
        ),
        gauges("drained_state", "1 for the state that the daemon is in.", all.iter().map(is).collect()),
        gauges(
            "drained_connections_limit",
            "How many connections fit the limit on file descriptors, all proxies together.",
            vec![gauge(f64::from(*room), &[])],
        ),
        counters(
            "drained_listeners_adopted_total",
            "Listeners taken over from the process before this one.",
            vec![counter(status.adopted.listeners, &[])],
        ),
        gauges(
            "drained_handover_pause_seconds",
            "How long connections had to wait when they were last taken over; after a crash at the most.",
            pause.into_iter().collect(),
        ),
        counters(
            "drained_log_records_total",
            "Log records that were written.",
            vec![counter(*log_written, &[])],
        ),
        counters(
            "drained_log_dropped_total",
            "Log records that were dropped, for the log was not written as fast as they came.",
            vec![counter(*log_dropped, &[])],
        ),
    ]
}

fn of_proxies(figures: &Figures) -> Vec<MetricFamily> {
    let proxies = &figures.status.proxies;
    let now = |value: fn(&ProxyStatus) -> u64| {
        proxies.iter().map(|(name, p)| gauge(value(p) as f64, &[("proxy", name.as_str())])).collect()
    };
    let total = |value: fn(&ProxyStatus) -> u64| {
        proxies.iter().map(|(name, p)| counter(value(p), &[("proxy", name.as_str())])).collect()
    };
    let others = || figures.proxies.iter().map(|(name, of)| ([("proxy", name.as_str())], of));
    let bytes = |(name, p): (&String, &ProxyStatus)| {
        [("to_upstream", p.bytes.to_upstream), ("to_client", p.bytes.to_client)]
            .map(|(way, bytes)| counter(bytes, &[("proxy", name.as_str()), ("direction", way)]))
    };
    vec![
        gauges("drained_connections_active", "Connections that are open.", now(|p| p.connections.active)),
        gauges(
            "drained_connections_held",
            "Connections of clients that wait for an upstream.",
            now(|p| p.connections.held),
        ),
        counters(
            "drained_connections_accepted_total",
            "Connections taken in.",
            total(|p| p.connections.accepted),
        ),
        counters(
            "drained_connections_adopted_total",
            "Connections taken over from the process before this one.",
            others().map(|(proxy, of)| counter(of.adopted, &proxy)).collect(),
        ),
        counters(
            "drained_connections_drained_total",
            "Connections that ended by themselves or by a goodbye while the proxy drained.",
            total(|p| p.connections.drained),
        ),
        counters(
            "drained_connections_cut_total",
            "Connections cut at the deadline of a drain.",
            total(|p| p.connections.cut),
        ),
        counters(
            "drained_connections_failed_total",
            "Connections let go because no upstream took them.",
            total(|p| p.connections.failed),
        ),
        gauges(
            "drained_proxy_connections_limit",
            "The max_connections of the proxy, where it has one.",
            others().filter_map(|(proxy, of)| Some(gauge(f64::from(of.limit?), &proxy))).collect(),
        ),
        counters(
            "drained_relayed_bytes_total",
            "Payload relayed, to upstreams and to clients.",
            proxies.iter().flat_map(bytes).collect(),
        ),
        family(
            "drained_connect_duration_seconds",
            "From the start of a connect to an upstream until it was established.",
            MetricType::HISTOGRAM,
            others().map(|(proxy, of)| histogram(&of.connects, &proxy)).collect(),
        ),
        family(
            "drained_connection_duration_seconds",
            "From the accept of a connection until its end, of those that had an upstream.",
            MetricType::HISTOGRAM,
            others().map(|(proxy, of)| histogram(&of.lives, &proxy)).collect(),
        ),
    ]
}

fn of_upstreams(status: &Status) -> Vec<MetricFamily> {
    let (mut up, mut drained, mut connections) = (Vec::new(), Vec::new(), Vec::new());
    for (name, proxy) in &status.proxies {
        for upstream in &proxy.upstreams {
            let labels = [("proxy", name.as_str()), ("upstream", upstream.address.as_str())];
            up.push(gauge(f64::from(u8::from(upstream.state == UpstreamState::Up)), &labels));
            let by_hand = matches!(upstream.state, UpstreamState::Draining | UpstreamState::Drained);
            drained.push(gauge(f64::from(u8::from(by_hand)), &labels));
            connections.push(gauge(upstream.connections as f64, &labels));
        }
    }
    vec![
        gauges("drained_upstream_up", "1 while the upstream takes connections, as far as is known.", up),
        gauges(
            "drained_upstream_drained",
            "1 while drainctl drain keeps the upstream out of service.",
            drained,
        ),
        gauges(
            "drained_upstream_connections",
            "Connections to the upstream, those that are being made included.",
            connections,
        ),
    ]
}

fn gauges(name: &'static str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, metrics)
}

fn counters(name: &'static str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, metrics)
}

fn family(name: &'static str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn gauge(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(value: u64, labels: &[(&str, &str)]) -> Metric {
    let mut counter = Counter::default();
    // Exact up to 2^53, as every number of Prometheus is.
    counter.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn histogram(of: &Distribution, labels: &[(&str, &str)]) -> Metric {
    let bucket = |&(bound, count): &(f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(of.buckets.iter().map(bucket).collect());
    histogram.set_sample_count(of.count);
    histogram.set_sample_sum(of.sum);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{Adopted, Bytes, Connections, UpstreamStatus};

    fn figures() -> Figures {
        let upstream =
            |address: &str, state| UpstreamStatus { address: address.to_owned(), state, connections: 2 };
        let web = ProxyStatus {
            state: State::Running,
            holding: false,
            protocol: "tcp".to_owned(),
            connections: Connections { active: 1, held: 2, accepted: 3, drained: 4, cut: 5, failed: 6 },
            bytes: Bytes { to_upstream: 7, to_client: 1 << 40 },
            upstreams: vec![
                upstream("127.0.0.1:8000", UpstreamState::Up),
                upstream("unix:/run/a\"b\\c\nd", UpstreamState::Down),
                upstream("[::1]:1", UpstreamState::Draining),
                upstream("[::1]:2", UpstreamState::Drained),
            ],
        };
        let spread = Distribution { buckets: vec![(0.001, 1), (0.5, 3)], count: 4, sum: 9.25 };
        let of = Of { adopted: 8, limit: Some(100), connects: spread.clone(), lives: spread };
        Figures {
            status: Status {
                version: "0.1.0".to_owned(),
                pid: 7,
                state: State::Draining,
                uptime_s: 3,
                adopted: Adopted { listeners: 1, connections: 8, pause_ms: Some(45) },
                proxies: BTreeMap::from([("web".to_owned(), web)]),
            },
            started: 1_700_000_000.5,
            room: 8_000,
            log_written: 9,
            log_dropped: 10,
            proxies: BTreeMap::from([("web".to_owned(), of)]),
        }
    }

    #[test]
    fn each_figure_has_its_line() {
        let text = text(&figures());
        for line in [
            "# TYPE drained_build_info gauge",
            "drained_build_info{version=\"0.1.0\"} 1",
            "drained_start_time_seconds 1700000000.5",
            "drained_state{state=\"running\"} 0",
            "drained_state{state=\"draining\"} 1",
            "drained_connections_limit 8000",
            "drained_listeners_adopted_total 1",
            "drained_handover_pause_seconds 0.045",
            "drained_log_records_total 9",
            "drained_log_dropped_total 10",
            "drained_connections_active{proxy=\"web\"} 1",
            "drained_connections_held{proxy=\"web\"} 2",
            "# TYPE drained_connections_accepted_total counter",
            "drained_connections_accepted_total{proxy=\"web\"} 3",
            "drained_connections_adopted_total{proxy=\"web\"} 8",
            "drained_connections_drained_total{proxy=\"web\"} 4",
            "drained_connections_cut_total{proxy=\"web\"} 5",
            "drained_connections_failed_total{proxy=\"web\"} 6",
            "drained_proxy_connections_limit{proxy=\"web\"} 100",
            "drained_relayed_bytes_total{proxy=\"web\",direction=\"to_upstream\"} 7",
            "drained_relayed_bytes_total{proxy=\"web\",direction=\"to_client\"} 1099511627776",
            "# TYPE drained_connect_duration_seconds histogram",
            "drained_connect_duration_seconds_bucket{proxy=\"web\",le=\"0.001\"} 1",
            "drained_connect_duration_seconds_bucket{proxy=\"web\",le=\"0.5\"} 3",
            "drained_connect_duration_seconds_bucket{proxy=\"web\",le=\"+Inf\"} 4",
            "drained_connection_duration_seconds_sum{proxy=\"web\"} 9.25",
            "drained_connection_duration_seconds_count{proxy=\"web\"} 4",
            "drained_upstream_up{proxy=\"web\",upstream=\"127.0.0.1:8000\"} 1",
            "drained_upstream_up{proxy=\"web\",upstream=\"unix:/run/a\\\"b\\\\c\\nd\"} 0",
            "drained_upstream_drained{proxy=\"web\",upstream=\"127.0.0.1:8000\"} 0",
            "drained_upstream_drained{proxy=\"web\",upstream=\"[::1]:1\"} 1",
            "drained_upstream_drained{proxy=\"web\",upstream=\"[::1]:2\"} 1",
            "drained_upstream_connections{proxy=\"web\",upstream=\"127.0.0.1:8000\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn the_names_are_those_of_the_list_each_with_its_help() {
        let text = text(&figures());
        let of = |what: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(what)?.split(' ').next());
            lines.map(str::to_owned).collect()
        };
        assert_eq!(of("# TYPE "), NAMES);
        assert_eq!(of("# HELP "), NAMES);
    }

    #[test]
    fn what_there_is_not_is_left_out() {
        let mut figures = figures();
        figures.status.adopted.pause_ms = None;
        figures.status.proxies.clear();
        figures.proxies.clear();
        let text = text(&figures);
        assert!(!text.contains("pause") && !text.contains("proxy") && !text.contains("upstream"), "{text}");
        assert!(text.contains("drained_build_info") && text.ends_with('\n'));
    }
}
