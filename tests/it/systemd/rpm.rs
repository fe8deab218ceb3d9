//! Installing, upgrading and removing the rpm, with rpm(8) under a real systemd.
//!
//! rpm's database knows no package of the system around it, hence `--nodeps`.

use super::{UNIT, package};
use crate::support::container::Container;
use crate::support::image::Release;

#[test]
#[ignore = "boots a container: `make test` as root"]
fn scriptlets_install_upgrade_and_remove() {
    let container = Container::boot(Release::BookwormRpm);
    let rpm = container.copy_in(&package("DRAINED_TEST_RPM"));

    // As on distributions with rpm: enabled if the presets say so (Debian's do), not started.
    container.run(["rpm", "--nodeps", "-i", &rpm]);
    assert_eq!(container.show(UNIT, "UnitFileState"), "enabled");
    assert_eq!(container.show(UNIT, "ActiveState"), "inactive");
    container.run(["getent", "passwd", "drained"]);
    assert!(container.run(["journalctl", "--dump-catalog"]).contains("065daf6ab12bc70ca7b9cf7cf112959b"));

    container.systemctl(["start", UNIT]);
    let before = container.show(UNIT, "InvocationID");
    container.write("/etc/drained/drained.toml", "# The administrator was here.\n");

    // The same file again stands for a later version: rpm runs the same scriptlets.
    container.run(["rpm", "--nodeps", "-U", "--replacepkgs", &rpm]);
    assert_eq!(container.show(UNIT, "SubState"), "running");
    assert_ne!(container.show(UNIT, "InvocationID"), before, "restarted");
    let stops = container.journal(["UNIT=drained.service", "JOB_TYPE=restart", "JOB_RESULT=done"]);
    assert_eq!(stops.len(), 1, "one restart job: {stops:?}");
    assert_eq!(container.read("/etc/drained/drained.toml"), "# The administrator was here.\n");

    container.run(["rpm", "--nodeps", "-e", "drained"]);
    assert_eq!(container.show(UNIT, "LoadState"), "not-found");
    assert_eq!(container.show(UNIT, "ActiveState"), "inactive");
    assert_eq!(container.systemctl(["--failed", "--no-legend"]), "");
    let left = container.run([
        "find",
        "/etc",
        "/usr",
        "/run",
        "-name",
        "*drained*",
        "-not",
        "-name",
        "drained.toml.rpmsave",
        "-not",
        "-path",
        "/etc/drained",
    ]);
    assert_eq!(left, "", "left behind");
    assert_eq!(container.read("/etc/drained/drained.toml.rpmsave"), "# The administrator was here.\n");
}
