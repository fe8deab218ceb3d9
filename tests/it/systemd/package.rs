//! Installing, upgrading, removing and purging the deb.

use super::on_every_release;
use crate::support::container::Container;
use crate::support::image::Release;

on_every_release!(boots);

fn boots(release: Release) {
    let container = Container::boot(release);
    let version = container.systemctl(["show", "--value", "--property=Version"]);
    println!("{version}");
    assert_eq!(container.systemctl(["is-system-running"]), "running");
    container.wait_journal(["_PID=1"], std::time::Duration::from_secs(10));
    assert!(!container.journal(["_PID=1"]).is_empty());
    container.in_network(|| std::net::TcpListener::bind("127.0.0.1:80").unwrap());
}
