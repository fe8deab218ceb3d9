//! The running daemon as the kernel and journald see it: masks, rights, priorities.

use super::{installed, on_every_release};
use crate::support::image::Release;

on_every_release!(signals_are_blocked_in_every_thread, rights_are_those_of_the_unit, priorities_are_syslogs,);

fn signals_are_blocked_in_every_thread(release: Release) {
    let container = installed(release);
    let pid = container.host_pid("drained.service");
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let name = field(&status, "Name:");
        let blocked = u64::from_str_radix(field(&status, "SigBlk:"), 16).unwrap();
        // HUP INT QUIT USR1 USR2 PIPE TERM; a signal's bit is its number less one.
        for signal in [1, 2, 3, 10, 12, 13, 15] {
            assert!(
                blocked & 1 << (signal - 1) != 0,
                "signal {signal} is open in thread {name}: {blocked:016x}"
            );
        }
        threads += 1;
    }
    assert!(threads > 1, "the daemon has more than its main thread");
}

fn rights_are_those_of_the_unit(release: Release) {
    let container = installed(release);
    let pid = container.host_pid("drained.service");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let user = container.run(["id", "--user", "drained"]);
    assert_eq!(field(&status, "Uid:").split_whitespace().collect::<Vec<_>>(), [&user; 4]);
    // CAP_NET_BIND_SERVICE is number 10.
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(field(&status, set), 16).unwrap(), 1 << 10, "{set}");
    }
    assert_eq!(field(&status, "NoNewPrivs:"), "1");
    assert_eq!(field(&status, "Seccomp:"), "2", "the system call filter is in force");
}

fn priorities_are_syslogs(release: Release) {
    let container = installed(release);
    let started = container.wait_journal(["DRAINED_EVENT=started"], super::SOON);
    assert_eq!(started["PRIORITY"], "6");
    assert_eq!(started["MESSAGE_ID"], "065daf6ab12bc70ca7b9cf7cf112959b");
    assert_eq!(started["_SYSTEMD_UNIT"], "drained.service");
    assert_eq!(started["SYSLOG_IDENTIFIER"], "drained");
    assert_eq!(started["_TRANSPORT"], "journal", "the fields go to journald itself, not through stderr");
    // Warnings are seen where connections are cut.
    container.systemctl(["stop", "drained.service"]);
    assert_eq!(container.wait_journal(["DRAINED_EVENT=stopped"], super::SOON)["PRIORITY"], "6");
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}")).trim()
}
