//! The installed package under a real systemd 252 and a real 257.
//!
//! Each test boots a container of its own, so none sees what another left.

mod package;

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
