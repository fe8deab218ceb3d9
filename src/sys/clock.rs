//! Clocks: the monotonic one as a number that the next process understands too, and the time of day
//! where this machine stands, for people who read lines on a terminal.

use std::fmt;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// Milliseconds of CLOCK_MONOTONIC: the same clock in all processes since the machine has booted.
pub fn monotonic_ms() -> u64 {
    // It fails for no clock that every kernel has.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_millis() as u64)
}

/// An instant in few bytes, for what takes no longer than 29 hours: a number of 25 microseconds of
/// CLOCK_MONOTONIC that begins anew when it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    const MICROS: u128 = 25;

    /// The one of this instant.
    pub fn now() -> Tick {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Tick::at(now)
    }

    fn at(time: Duration) -> Tick {
        Tick((time.as_micros() / Tick::MICROS) as u32)
    }

    /// The time from this instant until `later`.
    pub fn until(self, later: Tick) -> Duration {
        Duration::from_micros(u64::from(later.0.wrapping_sub(self.0)) * Tick::MICROS as u64)
    }
}

/// A time of day, shown as `12:03:04.123`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    hour: u8,
    minute: u8,
    second: u8,
    millisecond: u16,
}

/// The local time of day at `now`, in the time zone of $TZ or /etc/localtime; see localtime(3). A
/// `now` before 1970 counts as 1970.
pub fn local_time(now: SystemTime) -> TimeOfDay {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = libc::time_t::try_from(since.as_secs()).unwrap_or_default();
    let mut tm = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call, and all-zero bytes are a valid `tm` (its one
    // pointer may be null), so `tm` is initialised even if localtime_r fails. It reads the
    // environment, which no thread of this program changes. The standard library has no time zones.
    let tm = unsafe {
        libc::localtime_r(&seconds, tm.as_mut_ptr());
        tm.assume_init()
    };
    let part = |value: libc::c_int| u8::try_from(value).unwrap_or_default();
    TimeOfDay {
        hour: part(tm.tm_hour),
        minute: part(tm.tm_min),
        second: part(tm.tm_sec),
        millisecond: since.subsec_millis() as u16,
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}.{:03}", self.hour, self.minute, self.second, self.millisecond)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tick_may_pass_the_end_of_its_number() {
        let full = Duration::from_micros((u64::from(u32::MAX) + 1) * 25);
        let day = Duration::from_secs(24 * 60 * 60);
        for (from, to) in [(Duration::ZERO, day), (full - day / 2, full + day / 2), (full, full)] {
            assert_eq!(Tick::at(from).until(Tick::at(to)), to - from);
        }
    }

    #[test]
    fn shows_a_time_of_day() {
        let shown = local_time(UNIX_EPOCH + Duration::from_millis(1_000_000_007)).to_string();
        // Zones differ by multiples of a quarter of an hour: 13:46:40 UTC.
        assert!(shown.ends_with("1:40.007") || shown.ends_with("6:40.007"), "{shown}");
        assert_eq!(shown.len(), 12);
    }
}
