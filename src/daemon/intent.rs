//! Stop or restart: what a SIGTERM is for, as a pure function of what systemd says.

use crate::config::OnRestart;
use crate::systemd::manager::Manager;

/// What to do with the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The next incarnation goes on with them.
    HandOver,
    /// They finish their work, within `deadline`.
    Drain,
    /// The machine goes down: they finish within `deadline_on_shutdown`.
    DrainForShutdown,
}

/// What a stop means. `manager` is None without an answer; `connected` says that there is a service
/// manager at all, who may keep what is handed over.
///
/// Jobs are those of org.freedesktop.systemd1(5): with `restart` (of which systemctl restart,
/// try-restart, reload-or-restart and restarted dependencies make one) and `start` (which came while
/// we stop) the store is kept. Without a job the service is not started again after an exit with 0.
///
/// With `failed` a part of the daemon has, and it ends by itself: as after a crash the next incarnation goes on
/// with what is left, unless nobody would start it.
pub fn decide(on_restart: OnRestart, connected: bool, failed: bool, manager: Option<&Manager>) -> Intent {
    let has_store = connected && manager.is_none_or(|m| m.store_max > 0);
    let job = manager.and_then(|m| m.job.as_deref());
    let goes_down = manager.is_some_and(|m| m.system_state == "stopping");
    if failed && has_store && job != Some("stop") && !goes_down {
        return Intent::HandOver;
    }
    match (on_restart, has_store, job) {
        (OnRestart::Always, true, _) => Intent::HandOver,
        (OnRestart::Auto, true, Some("restart" | "start")) if !goes_down => Intent::HandOver,
        _ if goes_down => Intent::DrainForShutdown,
        _ => Intent::Drain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use Intent::*;
        let manager = |job: Option<&str>, state: &str| {
            Some(Manager { job: job.map(str::to_owned), system_state: state.to_owned(), store_max: 8 })
        };
        let cases = [
            (None, Drain),
            (manager(None, "running"), Drain),
            (manager(Some("stop"), "running"), Drain),
            (manager(Some("verify-active"), "running"), Drain),
            (manager(Some("restart"), "running"), HandOver),
            (manager(Some("restart"), "degraded"), HandOver),
            (manager(Some("start"), "running"), HandOver),
            (manager(Some("stop"), "stopping"), DrainForShutdown),
            (manager(Some("restart"), "stopping"), DrainForShutdown),
            (manager(None, "stopping"), DrainForShutdown),
        ];
        for (manager, expected) in cases {
            let without = if expected == HandOver { Drain } else { expected };
            assert_eq!(decide(OnRestart::Auto, true, false, manager.as_ref()), expected, "{manager:?}");
            assert_eq!(decide(OnRestart::Auto, false, false, manager.as_ref()), without, "{manager:?}");
            assert_eq!(decide(OnRestart::Never, true, false, manager.as_ref()), without, "{manager:?}");
            assert_eq!(decide(OnRestart::Always, true, false, manager.as_ref()), HandOver, "{manager:?}");
            assert_eq!(decide(OnRestart::Always, false, false, manager.as_ref()), without, "{manager:?}");
            let storeless = manager.map(|manager| Manager { store_max: 0, ..manager });
            if storeless.is_some() {
                assert_eq!(
                    decide(OnRestart::Auto, true, false, storeless.as_ref()),
                    without,
                    "{storeless:?}"
                );
                assert_eq!(
                    decide(OnRestart::Always, true, false, storeless.as_ref()),
                    without,
                    "{storeless:?}"
                );
            }
        }
    }
}
