//! What became of each client, as a table; and what of it is a fault.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::clients::{End, Fate, Kind};

/// How much later than the deadline a client may see its cut, on a machine that has much else to do.
const LATE: Duration = Duration::from_secs(2);

/// A line a client, 80 columns at most.
pub fn of(fates: &[Fate], stop: Instant) -> String {
    let mut table = format!(
        "\n{:<22} {:>10} {:>11}  {:<7} {:<14} {:>9}\n",
        "client", "to client", "to upstream", "intact", "ended", "at stop"
    );
    for fate in fates {
        // Writing into a String does not fail.
        let _ = writeln!(
            table,
            "{:<22} {:>10} {:>11}  {:<7} {:<14} {:>9}",
            fate.kind.name(),
            bytes(fate.to_client),
            bytes(fate.to_upstream),
            if fate.intact { "yes" } else { "NO" },
            ended(&fate.end),
            format!("{:+.3} s", seconds_after(fate.at, stop)),
        );
    }
    table.truncate(table.trim_end().len());
    table
}

/// One sentence about a show without faults.
pub fn summary(fates: &[Fate]) -> String {
    let count = |end: End| fates.iter().filter(|fate| fate.end == end).count();
    format!(
        "All went as it should: {} connections finished their work, {} were closed between two requests, {} that \
         hung was cut at the deadline; no byte was damaged, and the daemon ended with exit code 0.",
        count(End::Finished),
        count(End::Goodbye),
        count(End::Cut)
    )
}

/// All that is not as it should be.
pub fn faults(fates: &[Fate], stop: Instant, deadline: Duration) -> Vec<String> {
    let mut faults = Vec::new();
    for fate in fates {
        let name = fate.kind.name();
        if !fate.intact {
            faults.push(format!("\"{name}\" got damaged bytes"));
        }
        if fate.end != fate.kind.expected() {
            faults.push(match &fate.end {
                End::Failed(why) => format!("\"{name}\": {why}"),
                end => format!("\"{name}\" was {}, not {}", ended(end), ended(&fate.kind.expected())),
            });
        } else if fate.at < stop {
            faults.push(format!("\"{name}\" ended before the stop"));
        }
        if fate.kind == Kind::Hung && fate.at.saturating_duration_since(stop) > deadline + LATE {
            faults.push(format!("\"{name}\" was cut after the deadline"));
        }
    }
    faults
}

fn ended(end: &End) -> &'static str {
    match end {
        End::Finished => "finished",
        End::Goodbye => "closed (FIN)",
        End::Cut => "cut (RST)",
        End::Failed(_) => "failed",
    }
}

fn seconds_after(at: Instant, zero: Instant) -> f64 {
    at.saturating_duration_since(zero).as_secs_f64() - zero.saturating_duration_since(at).as_secs_f64()
}

/// A number of bytes for people, in powers of a thousand.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(kind: Kind, end: End, at: Instant) -> Fate {
        Fate { kind, to_client: 5_368_709_120, to_upstream: 24, intact: true, end, at }
    }

    #[test]
    fn faults_are_named_and_their_absence_is_none() {
        let stop = Instant::now();
        let deadline = Duration::from_secs(6);
        let at = stop + deadline;
        assert_eq!(
            faults(&[fate(Kind::Hung, End::Cut, at), fate(Kind::Idle, End::Goodbye, at)], stop, deadline),
            [""; 0]
        );
        let named = |fate: Fate| faults(&[fate], stop, deadline).len();
        assert_eq!(named(fate(Kind::Hung, End::Cut, at + Duration::from_secs(3))), 1);
        assert_eq!(named(fate(Kind::Upload, End::Cut, at)), 1);
        assert_eq!(named(fate(Kind::Idle, End::Failed("timed out".into()), at)), 1);
        assert_eq!(named(Fate { intact: false, ..fate(Kind::Upload, End::Finished, at) }), 1);
        assert_eq!(named(fate(Kind::Upload, End::Finished, stop - Duration::from_millis(1))), 1);
    }

    #[test]
    fn the_table_is_not_wider_than_a_screen() {
        let stop = Instant::now();
        let table = of(&[fate(Kind::HalfClosed, End::Goodbye, stop + Duration::from_millis(16_500))], stop);
        assert!(table.lines().all(|l| l.len() <= 80), "{table}");
        assert!(table.ends_with("+16.500 s"), "{table}");
    }
}
