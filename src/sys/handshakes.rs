//! TCP handshakes that have begun and not ended, as /proc/self/net/tcp and tcp6 list them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Instant;

/// TCP_SYN_RECV in the kernel's include/net/tcp_states.h.
const SYN_RECEIVED: &str = "03";

/// Whether somebody is in the midst of a handshake with one of these local ports. False where /proc
/// can't be read, or is not read to its end by `until`: it lists every socket of the network
/// namespace.
pub fn pending(ports: &[u16], until: Instant) -> bool {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    !ports.is_empty() && tables.iter().any(|table| lists(table, ports, until))
}

fn lists(table: &str, ports: &[u16], until: Instant) -> bool {
    let Ok(file) = File::open(table) else { return false };
    let lines = BufReader::with_capacity(1 << 16, file).lines().map_while(Result::ok);
    let in_time = |(number, _): &(usize, String)| number % 1024 != 0 || Instant::now() < until;
    lines.enumerate().take_while(in_time).any(|(_, line)| is_pending(&line, ports))
}

/// `sl local_address rem_address st ...`, addresses as hexadecimal IP:PORT.
fn is_pending(line: &str, ports: &[u16]) -> bool {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (local, state) = (columns.next(), columns.nth(1));
    let port = local.and_then(|l| u16::from_str_radix(l.rsplit(':').next()?, 16).ok());
    state == Some(SYN_RECEIVED) && port.is_some_and(|p| ports.contains(&p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn finds_half_open_connections_of_our_ports_only() {
        let line = "   1: 0100007F:1F90 0200007F:C350 03 00000000:00000000 01:0000 0 0 0 0 0";
        assert!(is_pending(line, &[80, 8080]));
        assert!(!is_pending(line, &[80]));
        assert!(!is_pending(&line.replace(" 03 ", " 01 "), &[8080]));
        assert!(!is_pending("  sl  local_address rem_address   st", &[8080]));
        assert!(!pending(&[1], Instant::now() + Duration::from_secs(10)));
    }
}
