//! The installed package under a real systemd 252 and a real 257.
//!
//! Each test boots a container of its own, so none sees what another left.

mod adopt;
mod cut;
mod handover;
mod hang;
mod killed;
mod package;
mod process;
mod reload;
mod rpm;
mod service;
mod socket;
mod stop;
mod transfers;
mod upgrade;

use std::path::PathBuf;
use std::time::Duration;

use crate::support::container::Container;
use crate::support::image::Release;

/// Makes of each function `fn name(release: Release)` one test a release; `steady` are those that measure
/// time.
macro_rules! on_every_release {
    (steady: $($name:ident),* $(,)?) => {
        on_every_release!(@ crate::support::steady::steady, $($name),*);
    };
    (@ $run:path, $($name:ident),*) => {
        mod bookworm {
            $(#[test] #[ignore = "boots a container: `make test` as root"]
            fn $name() { $run(|| super::$name(crate::support::image::Release::Bookworm)) })*
        }
        mod trixie {
            $(#[test] #[ignore = "boots a container: `make test` as root"]
            fn $name() { $run(|| super::$name(crate::support::image::Release::Trixie)) })*
        }
    };
    ($($name:ident),* $(,)?) => {
        on_every_release!(@ super::super::once, $($name),*);
    };
}
use on_every_release;

fn once(test: impl Fn()) {
    test();
}

/// What a state change of the unit may take where nothing is to be drained.
const SOON: Duration = Duration::from_secs(20);

/// Boots and installs the package, which starts the unit.
fn installed(release: Release) -> Container {
    let container = Container::boot(release);
    install(&container);
    container
}

const UNIT: &str = "drained.service";

/// The port of the proxy in these tests: one below 1024, so the capability is needed. Each
/// container has a network of its own.
const PROXY: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

/// Writes the configuration and restarts the unit, which must come up.
fn configure(container: &Container, toml: &str) {
    container.write("/etc/drained/drained.toml", toml);
    container.systemctl(["restart", UNIT]);
    assert_eq!(container.show(UNIT, "SubState"), "running");
}

/// One proxy to this upstream on [`PROXY`], with these lines in [drain].
fn one_proxy(upstream: std::net::SocketAddr, drain: &str) -> String {
    format!("[drain]\n{drain}\n[proxy.web]\nlisten = \"{PROXY}\"\nupstream = \"{upstream}\"\n")
}

/// Matches the journal entries of the daemon that runs or ran last.
fn this_run(container: &Container) -> String {
    format!("_SYSTEMD_INVOCATION_ID={}", container.show(UNIT, "InvocationID"))
}

/// Makes sure that the unit ended well after what was an orderly stop.
fn assert_ended_well(container: &Container) {
    container.wait_property(UNIT, "ActiveState", Duration::from_secs(120), |state| {
        state == "inactive" || state == "failed"
    });
    let end = ["Result", "ExecMainStatus", "ActiveState"].map(|property| container.show(UNIT, property));
    assert_eq!(end, ["success", "0", "inactive"]);
}

/// From the moment systemd began to stop the unit to the main process's end, in microseconds.
fn stop_us(container: &Container) -> u64 {
    let began = container.show_number(UNIT, "ActiveExitTimestampMonotonic");
    container.show_number(UNIT, "ExecMainExitTimestampMonotonic") - began
}

/// Installs the package under test and returns its path in the container.
fn install(container: &Container) -> String {
    let deb = container.copy_in(&package("DRAINED_TEST_DEB"));
    container.run(["dpkg", "-i", &deb]);
    deb
}

/// The package that the variable names.
fn package(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} must name the package: use make test"));
    PathBuf::from(path)
}
