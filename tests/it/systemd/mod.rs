//! The installed package under a real systemd 252 and a real 257.
//!
//! Each test boots a container of its own, so none sees what another left.

mod package;
mod process;
mod rpm;

use std::path::PathBuf;
use std::time::Duration;

use crate::support::container::Container;
use crate::support::image::Release;

/// Makes of each function `fn name(release: Release)` one test a release.
macro_rules! on_every_release {
    ($($name:ident),* $(,)?) => {
        mod bookworm {
            $(#[test] #[ignore = "boots a container: `make test` as root"]
            fn $name() { super::$name(crate::support::image::Release::Bookworm) })*
        }
        mod trixie {
            $(#[test] #[ignore = "boots a container: `make test` as root"]
            fn $name() { super::$name(crate::support::image::Release::Trixie) })*
        }
    };
}
use on_every_release;

/// What a state change of the unit may take where nothing is to be drained.
const SOON: Duration = Duration::from_secs(20);

/// Boots and installs the package, which starts the unit.
fn installed(release: Release) -> Container {
    let container = Container::boot(release);
    install(&container);
    container
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
