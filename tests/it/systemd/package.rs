//! Installing, upgrading, removing and purging the deb.

use std::collections::BTreeSet;

use super::{SOON, UNIT, install, installed, on_every_release};
use crate::support::container::Container;
use crate::support::image::Release;

on_every_release!(
    install_enables_and_starts_a_daemon_without_a_proxy,
    upgrade_is_one_restart_job_and_keeps_the_configuration,
    upgrade_leaves_a_stopped_and_disabled_unit_alone,
    remove_stops_and_purge_leaves_nothing,
    exposure_is_at_most_1_5,
    examples_are_valid_units,
);

fn install_enables_and_starts_a_daemon_without_a_proxy(release: Release) {
    let container = installed(release);
    assert_eq!(container.show(UNIT, "ActiveState"), "active");
    assert_eq!(container.show(UNIT, "SubState"), "running");
    assert_eq!(container.show(UNIT, "UnitFileState"), "enabled");
    assert_eq!(container.show(UNIT, "NRestarts"), "0");
    assert_eq!(container.show(UNIT, "CanReload"), "yes");
    let status = container.show(UNIT, "StatusText");
    assert!(status.to_lowercase().contains("no proxy is configured"), "{status}");
    assert_eq!(container.systemctl(["is-system-running"]), "running");
    assert_eq!(container.run(["systemctl", "list-units", "--all", "--no-legend", "drained.socket"]), "");

    assert_eq!(container.run(["stat", "--format=%U:%G %a", "/run/drained"]), "drained:drained 755");
    assert_eq!(
        container.run(["stat", "--format=%U:%G %a", "/run/drained/control.sock"]),
        "drained:drained 660"
    );
    assert_eq!(container.run(["stat", "--format=%U:%G %a", "/etc/drained/drained.toml"]), "root:root 644");
    let user = container.run(["getent", "passwd", "drained"]);
    assert!(user.ends_with(":/usr/sbin/nologin"), "{user}");
    let catalog = container.run(["journalctl", "--dump-catalog"]);
    assert!(catalog.contains("065daf6ab12bc70ca7b9cf7cf112959b"), "dpkg's trigger updates the catalog");
}

fn upgrade_is_one_restart_job_and_keeps_the_configuration(release: Release) {
    let container = Container::boot(release);
    let deb = install(&container);
    let own_line = "# The administrator was here.\n";
    let configuration = container.read("/etc/drained/drained.toml") + own_line;
    container.write("/etc/drained/drained.toml", &configuration);
    let before = container.show(UNIT, "MainPID");
    let jobs_before = job_types(&container);
    let next = next_version(&container, &deb);

    container.run(["dpkg", "--force-confold", "-i", &next]);

    assert_eq!(container.show(UNIT, "SubState"), "running");
    assert_ne!(container.show(UNIT, "MainPID"), before, "the new version runs");
    let jobs: Vec<_> = job_types(&container).difference(&jobs_before).cloned().collect();
    let ids: BTreeSet<_> = jobs.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 1, "one job: {jobs:?}");
    assert!(jobs.iter().any(|(_, kind)| kind == "restart"), "a restart, not a stop and a start: {jobs:?}");
    assert_eq!(container.read("/etc/drained/drained.toml"), configuration);
    assert!(container.exists("/etc/drained/drained.toml.dpkg-dist"), "the new default lies beside it");
}

fn upgrade_leaves_a_stopped_and_disabled_unit_alone(release: Release) {
    let container = Container::boot(release);
    let deb = install(&container);
    container.systemctl(["disable", "--now", UNIT]);
    let next = next_version(&container, &deb);
    container.run(["dpkg", "-i", "--force-confnew", &next]);
    assert_eq!(container.show(UNIT, "ActiveState"), "inactive");
    assert_eq!(container.show(UNIT, "UnitFileState"), "disabled");
}

fn remove_stops_and_purge_leaves_nothing(release: Release) {
    let container = Container::boot(release);
    let deb = install(&container);
    let pid = container.host_pid(UNIT);

    container.run(["dpkg", "--remove", "drained"]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the removal stopped the daemon");
    let failures = container.journal(["UNIT=drained.service", "UNIT_RESULT=exit-code"]);
    assert!(failures.is_empty(), "{failures:?}");
    assert!(!container.exists("/usr/lib/systemd/system/drained.service"));
    assert!(!container.exists("/run/drained"));
    assert!(container.exists("/etc/drained/drained.toml"), "a removal keeps the configuration");

    container.run(["dpkg", "-i", &deb]);
    container.wait_property(UNIT, "SubState", SOON, |state| state == "running");
    assert_eq!(container.show(UNIT, "UnitFileState"), "enabled");

    container.run(["dpkg", "--purge", "drained"]);
    let left = container.run(["find", "/etc", "/var/lib", "/usr", "/run", "-name", "*drained*"]);
    assert_eq!(left, "", "left behind by purge");
    assert_eq!(container.systemctl(["--failed", "--no-legend"]), "");
    container.run(["getent", "passwd", "drained"]);
}

fn exposure_is_at_most_1_5(release: Release) {
    let container = installed(release);
    // The threshold is ten times the figure; systemd-analyze fails above it.
    container.run(["systemd-analyze", "security", "--no-pager", "--threshold=15", UNIT]);
    let none = container.output(["systemd-analyze", "security", "--no-pager", "--threshold=5", UNIT]);
    assert!(!none.status.success(), "the threshold bites");
}

fn examples_are_valid_units(release: Release) {
    let container = installed(release);
    for unit in ["/usr/lib/systemd/system/drained.service", "/usr/share/doc/drained/examples/drained.socket"]
    {
        let output = container.output(["systemd-analyze", "verify", "--man=no", unit]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{unit}: {said}");
    }
    let drop_in = container.read("/usr/share/doc/drained/examples/upstream-sockets.conf");
    container.write("/etc/systemd/system/drained.service.d/upstream-sockets.conf", drop_in);
    container.systemctl(["daemon-reload"]);
    container.systemctl(["restart", UNIT]);
    let groups = std::fs::read_to_string(format!("/proc/{}/status", container.host_pid(UNIT))).unwrap();
    let group = container.run(["getent", "group", "www-data"]);
    let group = group.split(':').nth(2).unwrap();
    assert!(groups.lines().any(|line| line.starts_with("Groups:") && line.contains(group)), "{groups}");
}

/// Every job of the unit that the journal tells of: its number, and what it was then called. A
/// restart job goes on as `start` under its number once the stop is done.
pub(super) fn job_types(container: &Container) -> BTreeSet<(String, String)> {
    let entries = container.journal(["_PID=1", "UNIT=drained.service"]);
    let text = |entry: &serde_json::Value, field: &str| entry[field].as_str().map(str::to_owned);
    entries.iter().filter_map(|entry| Some((text(entry, "JOB_ID")?, text(entry, "JOB_TYPE")?))).collect()
}

/// The same package as a later version, with another default configuration.
pub(super) fn next_version(container: &Container, deb: &str) -> String {
    let script = r#"
        dpkg-deb --raw-extract "$1" /var/tmp/next
        sed -i 's/^Version: .*/Version: 999-1/' /var/tmp/next/DEBIAN/control
        echo '# A later default.' >> /var/tmp/next/etc/drained/drained.toml
        dpkg-deb --build --root-owner-group /var/tmp/next /var/tmp/next.deb
    "#;
    container.run(["sh", "-euc", script, "sh", deb]);
    "/var/tmp/next.deb".to_owned()
}
