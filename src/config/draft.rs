//! A configuration in the making: what all files say together, each value with its place.
//!
//! The places are kept so that checks across keys and files can name both sides. A value that is
//! wrong was told when it was read and is left out here; the rest is checked on.

use std::path::PathBuf;
use std::time::Duration;

use super::files::ConfigFile;
use super::place::{At, Report, Source};
use super::{
    Check, Config, Daemon, Drain, Errors, Handover, ListenAddress, MetricsAddress, OnRestart, Protocol,
    Proxy, SendProxy, UpstreamAddress,
};
use super::{check, read};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HOLD: Duration = Duration::from_secs(30);

/// Reads all files as one configuration.
pub(super) fn build(files: &[ConfigFile]) -> Result<Config, Errors> {
    let mut report = Report::default();
    let mut draft = Draft::default();
    for (order, file) in files.iter().enumerate() {
        match &file.content {
            Ok(content) => read::file(order, &file.path, content, &mut draft, &mut report),
            Err(reason) => report.error(&Source::new(order, &file.path, "").whole(), reason),
        }
    }
    check::all(&mut draft, &mut report);
    draft.finish(report)
}

/// What all files say together.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) workers: Option<At<u32>>,
    pub(super) control: Option<At<PathBuf>>,
    pub(super) metrics: Option<At<MetricsAddress>>,
    pub(super) drain: DrainDraft,
    pub(super) on_restart: Option<At<OnRestart>>,
    pub(super) crash_after: Option<At<Option<Duration>>>,
    pub(super) proxies: Vec<ProxyDraft>,
}

#[derive(Clone, Default)]
pub(super) struct DrainDraft {
    pub(super) lame_duck: Option<At<Duration>>,
    pub(super) deadline: Option<At<Duration>>,
    pub(super) deadline_on_shutdown: Option<At<Duration>>,
    pub(super) spread: Option<At<Duration>>,
}

/// `name.place` is where the proxy is defined. A list is None where its key is missing.
pub(super) struct ProxyDraft {
    pub(super) name: At<String>,
    pub(super) listen: Option<Vec<At<ListenAddress>>>,
    pub(super) upstream: Option<Vec<At<UpstreamAddress>>>,
    pub(super) protocol: Protocol,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) max_connections: u32,
    pub(super) hold: Duration,
    pub(super) send_proxy: SendProxy,
    pub(super) check: Option<Check>,
    pub(super) drain: DrainDraft,
}

impl Draft {
    /// The configuration, if nothing was reported.
    pub(super) fn finish(self, report: Report) -> Result<Config, Errors> {
        if let Some(errors) = report.into_errors() {
            return Err(errors);
        }
        let workers = self.workers.map(|workers| workers.value as usize);
        let control = self.control.map(|control| control.value);
        let metrics = self.metrics.map(|metrics| metrics.value);
        let mut proxies: Vec<Proxy> =
            self.proxies.into_iter().map(|proxy| proxy.into_proxy(&self.drain)).collect();
        proxies.sort_by(|a, b| a.name.cmp(&b.name));
        let by_default = Handover::default();
        let handover = Handover {
            on_restart: self.on_restart.map_or(by_default.on_restart, |at| at.value),
            crash_after: self.crash_after.map_or(by_default.crash_after, |at| at.value),
        };
        Ok(Config { daemon: Daemon { workers, control, metrics }, handover, proxies })
    }
}

impl DrainDraft {
    /// This proxy's own, over the defaults of [drain], over those of the program.
    pub(super) fn over(&self, defaults: &DrainDraft) -> Drain {
        let pick = |own: &Option<At<Duration>>, default: &Option<At<Duration>>, program: Duration| {
            own.as_ref().or(default.as_ref()).map_or(program, |at| at.value)
        };
        let program = Drain::default();
        Drain {
            lame_duck: pick(&self.lame_duck, &defaults.lame_duck, program.lame_duck),
            deadline: pick(&self.deadline, &defaults.deadline, program.deadline),
            deadline_on_shutdown: pick(
                &self.deadline_on_shutdown,
                &defaults.deadline_on_shutdown,
                program.deadline_on_shutdown,
            ),
            spread: pick(&self.spread, &defaults.spread, program.spread),
        }
    }
}

impl ProxyDraft {
    pub(super) fn new(name: At<String>) -> ProxyDraft {
        ProxyDraft {
            name,
            listen: None,
            upstream: None,
            protocol: Protocol::Tcp,
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: Duration::ZERO,
            max_connections: 0,
            hold: HOLD,
            send_proxy: SendProxy::Off,
            check: None,
            drain: DrainDraft::default(),
        }
    }

    pub(super) fn into_proxy(self, defaults: &DrainDraft) -> Proxy {
        let drain = self.drain.over(defaults);
        Proxy {
            name: self.name.value,
            listen: self.listen.into_iter().flatten().map(|at| at.value).collect(),
            upstream: self.upstream.into_iter().flatten().map(|at| at.value).collect(),
            protocol: self.protocol,
            connect_timeout: self.connect_timeout,
            idle_timeout: Some(self.idle_timeout).filter(|t| !t.is_zero()),
            max_connections: Some(self.max_connections).filter(|n| *n > 0),
            hold: self.hold,
            send_proxy: self.send_proxy,
            check: self.check,
            drain,
        }
    }
}
