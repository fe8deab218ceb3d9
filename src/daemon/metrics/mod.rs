//! The daemon as Prometheus and health checks see it: `/metrics`, `/healthz`, `/readyz`.

mod exposition;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use slog::{Logger, info};

use self::exposition::{Figures, Of};
use super::{GRACE, report};
use crate::config::{MetricsAddress, UnixPath};
use crate::http::{HttpServer, Page, Running, Site, Status};
use crate::lifecycle::{Handle, Lifecycle, Phase, State};
use crate::proxy::Fleet;
use crate::sys::socket::Address;
use crate::systemd::journal::LogStats;
use crate::{Error, Exit, Result};

pub use exposition::NAMES;

/// How long the end of the thread may take.
const CLOSE: Duration = Duration::from_secs(1);

/// Listens where the configuration says so.
///
/// # Errors
/// Exit 71: the address is in use, or the system refuses it.
pub fn bind(address: &Option<MetricsAddress>) -> Result<Option<HttpServer>> {
    let Some(address) = address else { return Ok(None) };
    let shown = address.to_string();
    match address {
        MetricsAddress::Tcp(tcp) => HttpServer::bind(&Address::Tcp(*tcp), &shown),
        MetricsAddress::Unix(UnixPath::Path(path)) => HttpServer::bind_path(path),
        MetricsAddress::Unix(UnixPath::Abstract(name)) => {
            let unix = nix::sys::socket::UnixAddr::new_abstract(name.as_bytes())
                .map_err(|e| Error::new(Exit::Config, format!("the address {shown}: {e}")))?;
            HttpServer::bind(&Address::Unix(unix), &shown)
        }
    }
    .map(Some)
}

/// Serves from here on until the last phase of the stop.
///
/// # Errors
/// Exit 71: the system refuses a thread.
pub fn start(
    server: HttpServer,
    life: &mut Lifecycle,
    fleet: &Arc<Fleet>,
    log_stats: LogStats,
    log: &Logger,
) -> Result<()> {
    let handle = life.handle();
    let (address, fleet) = (server.address(), fleet.clone());
    let started = SystemTime::now() - handle.since().elapsed();
    let started = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let running = server.start(log.clone(), Pages { fleet, handle, log_stats, started })?;
    info!(log, "metrics and health are told on {address}");
    life.step(Phase::Finish, "close-metrics", CLOSE + GRACE, move |_| close(running));
    Ok(())
}

fn close(running: Running) -> Result<()> {
    running.close(CLOSE).unwrap_or_else(|| Err(Error::new(Exit::Software, "the metrics thread hangs")))
}

struct Pages {
    fleet: Arc<Fleet>,
    handle: Handle,
    log_stats: LogStats,
    /// Seconds since 1970.
    started: f64,
}

impl Site for Pages {
    fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(self.metrics()),
            "/healthz" => Some(Page::text(Status::Ok, self.handle.state().word())),
            "/readyz" => Some(readiness(self.handle.state())),
            _ => None,
        }
    }
}

impl Pages {
    fn metrics(&self) -> Page {
        let of = |proxy: &crate::proxy::Proxy| Of {
            adopted: proxy.totals().adopted,
            limit: proxy.config.max_connections,
            connects: proxy.connects(),
            lives: proxy.lives(),
        };
        let (leaving, staying): (Vec<_>, Vec<_>) =
            self.fleet.proxies().iter().cloned().partition(|proxy| proxy.is_departed());
        let figures = Figures {
            status: report::status(&self.fleet, &self.handle),
            started: self.started,
            room: self.fleet.room(),
            log_written: self.log_stats.written(),
            log_dropped: self.log_stats.dropped(),
            // One that was removed and came back is told of as it is now.
            proxies: leaving.iter().chain(&staying).map(|p| (p.config.name.clone(), of(p))).collect(),
        };
        Page { status: Status::Ok, content_type: exposition::CONTENT_TYPE, body: exposition::text(&figures) }
    }
}

/// Whether a load balancer should send clients here: not before the start is over, and not from the first
/// instant of a stop on.
fn readiness(state: State) -> Page {
    let status = match state {
        State::Running | State::Reloading => Status::Ok,
        State::Starting | State::Draining | State::HandingOver | State::Stopped => Status::Unavailable,
    };
    Page::text(status, state.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_or_stops_is_not_ready() {
        use State::*;
        let ready = [Starting, Running, Reloading, Draining, HandingOver, Stopped]
            .map(|state| readiness(state).status == Status::Ok);
        assert_eq!(ready, [false, true, true, false, false, false]);
        assert_eq!(readiness(HandingOver).body, "handing-over\n");
    }
}
