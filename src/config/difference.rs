//! What a reload makes of one configuration and the next: a pure function of both.

use super::{Config, Daemon, Handover, OnRestart};

/// From one configuration to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Proxies that are new.
    pub added: Vec<String>,
    /// Proxies that are there no longer.
    pub removed: Vec<String>,
    /// Proxies of which a key is another.
    pub changed: Vec<String>,
    /// Proxies that are as before.
    pub kept: Vec<String>,
    /// Keys that are others and need a restart to take effect.
    pub needs_restart: Vec<String>,
}

impl Config {
    /// What becomes of this configuration, which is in force, when `next` is loaded.
    pub fn difference(&self, next: &Config) -> Difference {
        let mut difference = Difference::default();
        for proxy in &next.proxies {
            let list = match self.proxies.iter().find(|old| old.name == proxy.name) {
                None => &mut difference.added,
                Some(old) if old == proxy => &mut difference.kept,
                Some(_) => &mut difference.changed,
            };
            list.push(proxy.name.clone());
        }
        let stays = |name: &String| next.proxies.iter().any(|proxy| proxy.name == *name);
        let names = self.proxies.iter().map(|proxy| &proxy.name);
        difference.removed = names.filter(|name| !stays(name)).cloned().collect();
        // Named one by one, so that nobody adds a key without saying what a reload does with it.
        let Daemon { workers, control, metrics } = &next.daemon;
        let Handover { on_restart: _, crash_after } = next.handover;
        let fixed = [
            ("daemon.workers", *workers != self.daemon.workers),
            ("daemon.control", *control != self.daemon.control),
            ("daemon.metrics", *metrics != self.daemon.metrics),
            ("handover.on_restart", !self.may_become(next.handover.on_restart)),
            ("handover.crash_after", crash_after != self.handover.crash_after),
        ];
        let needed = fixed.iter().filter(|(_, differs)| *differs);
        difference.needs_restart = needed.map(|(key, _)| (*key).to_owned()).collect();
        difference
    }

    /// What is in force once `next` was loaded: of keys that need a restart, what was before.
    pub fn reloaded(&self, next: Config) -> Config {
        let on_restart = next.handover.on_restart;
        let on_restart = if self.may_become(on_restart) { on_restart } else { self.handover.on_restart };
        let handover = Handover { on_restart, ..self.handover };
        Config { daemon: self.daemon.clone(), handover, proxies: next.proxies }
    }

    /// Where nothing outlives the process there is nothing to hand over.
    fn may_become(&self, on_restart: OnRestart) -> bool {
        let keeps_nothing =
            self.handover.on_restart == OnRestart::Never && self.handover.crash_after.is_none();
        !keeps_nothing || on_restart == OnRestart::Never
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MetricsAddress, Proxy, SendProxy};
    use super::*;
    use std::time::Duration;

    fn config(names: &[&str]) -> Config {
        Config { proxies: names.iter().map(|name| Proxy::departed(name)).collect(), ..Config::default() }
    }

    fn lists(difference: &Difference) -> [String; 4] {
        let Difference { added, removed, changed, kept, .. } = difference;
        [added, removed, changed, kept].map(|list| list.join(" "))
    }

    #[test]
    fn proxies_are_told_apart_by_their_names() {
        for (old, new, expected) in [
            (&[][..], &[][..], ["", "", "", ""]),
            (&[], &["a"], ["a", "", "", ""]),
            (&["a"], &[], ["", "a", "", ""]),
            (&["a"], &["a"], ["", "", "", "a"]),
            (&["a", "b"], &["b", "c"], ["c", "a", "", "b"]),
        ] {
            assert_eq!(lists(&config(old).difference(&config(new))), expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn any_key_of_a_proxy_makes_it_another() {
        let changes: [fn(&mut Proxy); 7] = [
            |p| p.listen.push(super::super::ListenAddress::Systemd("web".to_owned())),
            |p| p.upstream.push(super::super::UpstreamAddress::Tcp(([127, 0, 0, 1], 80).into())),
            |p| p.connect_timeout = Duration::from_secs(1),
            |p| p.idle_timeout = Some(Duration::from_secs(1)),
            |p| p.max_connections = Some(1),
            |p| p.send_proxy = SendProxy::V2,
            |p| p.drain.spread = Duration::from_secs(1),
        ];
        for change in changes {
            let mut new = config(&["a", "b"]);
            change(&mut new.proxies[1]);
            assert_eq!(lists(&config(&["a", "b"]).difference(&new)), ["", "", "b", "a"]);
        }
    }

    #[test]
    fn keys_that_need_a_restart_are_named_and_stay_as_they_were() {
        let daemon = |workers, control| Daemon { workers, control, metrics: None };
        let metrics = MetricsAddress::Tcp(([127, 0, 0, 1], 9130).into());
        let metrics = Daemon { metrics: Some(metrics), ..Daemon::default() };
        let handover = |crash_after| Handover { crash_after, ..Handover::default() };
        for (key, daemon, handover) in [
            ("daemon.workers", daemon(Some(7), None), Handover::default()),
            ("daemon.control", daemon(None, Some("/run/other.sock".into())), Handover::default()),
            ("daemon.metrics", metrics, Handover::default()),
            ("handover.crash_after", Daemon::default(), handover(Some(Duration::ZERO))),
            ("handover.crash_after", Daemon::default(), handover(None)),
        ] {
            let (old, new) = (config(&["a"]), Config { daemon, handover, ..config(&["b"]) });
            assert_eq!(old.difference(&new).needs_restart, [key]);
            assert_eq!(old.reloaded(new), config(&["b"]));
        }
    }

    #[test]
    fn what_a_stop_is_may_change_unless_nothing_is_kept() {
        use OnRestart::{Always, Auto, Never};
        let with = |on_restart, crash_after: Option<u64>| Config {
            handover: Handover { on_restart, crash_after: crash_after.map(Duration::from_secs) },
            ..Config::default()
        };
        for (old, new, expected) in [
            ((Auto, Some(1)), Never, Never),
            ((Never, Some(1)), Auto, Auto),
            ((Always, None), Auto, Auto),
            ((Never, None), Never, Never),
            ((Never, None), Auto, Never),
            ((Never, None), Always, Never),
        ] {
            let (old, new) = (with(old.0, old.1), with(new, old.1));
            let is_refused = expected != new.handover.on_restart;
            let difference = old.difference(&new);
            assert_eq!(difference.needs_restart.contains(&"handover.on_restart".to_owned()), is_refused);
            assert_eq!(old.reloaded(new).handover.on_restart, expected);
        }
    }
}
