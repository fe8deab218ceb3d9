//! Clients by their address: `--client` of `drainctl connections`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::sys::socket::Peer;

/// One client, or all of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Clients {
    /// All whose address begins with the first so many bits of this one.
    Network(IpAddr, u8),
    /// The one with this address and port.
    Socket(SocketAddr),
    /// All that connect through UNIX sockets.
    Unix,
    /// Those of them with this process id.
    Process(i32),
}

impl Clients {
    /// Whether `client` is one of them.
    pub fn has(&self, client: &Peer) -> bool {
        match (self, client) {
            (Clients::Network(network, bits), Peer::Tcp(address)) => {
                let (of_network, width) = number(*network);
                let (of_client, of_width) = number(address.ip());
                // A shift by the whole width, for no bits at all, overflows.
                let shift = |n: u128| n.checked_shr(u32::from(width - bits)).unwrap_or_default();
                width == of_width && shift(of_network) == shift(of_client)
            }
            (Clients::Socket(asked), Peer::Tcp(address)) => {
                (asked.ip(), asked.port()) == (address.ip(), address.port())
            }
            (Clients::Unix, Peer::Unix(_)) => true,
            (Clients::Process(asked), Peer::Unix(pid)) => asked == pid,
            _ => false,
        }
    }
}

/// An address as a number, and how many bits it has.
fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Clients, String> {
        let network = |(address, bits): (&str, &str)| {
            let (address, bits) = (address.parse().ok()?, bits.parse().ok()?);
            (bits <= number(address).1).then_some(Clients::Network(address, bits))
        };
        let address = || text.parse().ok().map(|address| Clients::Network(address, number(address).1));
        let unix = || match text.strip_prefix("unix") {
            Some("") => Some(Clients::Unix),
            Some(pid) => Some(Clients::Process(pid.strip_prefix(":pid=")?.parse().ok()?)),
            None => None,
        };
        let client = match text.split_once('/') {
            Some(parts) => network(parts),
            None => address().or_else(|| text.parse().ok().map(Clients::Socket)).or_else(unix),
        };
        client.ok_or_else(|| {
            format!(
                "{text:?} names no client: right are an address (192.0.2.7), one with a port (192.0.2.7:4711, \
                 [2001:db8::7]:4711), a network (192.0.2.0/24), unix, or unix:pid=4711"
            )
        })
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clients::Network(address, bits) if *bits == number(*address).1 => address.fmt(f),
            Clients::Network(address, bits) => write!(f, "{address}/{bits}"),
            Clients::Socket(address) => address.fmt(f),
            Clients::Unix => f.write_str("unix"),
            Clients::Process(pid) => write!(f, "unix:pid={pid}"),
        }
    }
}

impl TryFrom<String> for Clients {
    type Error = String;

    fn try_from(text: String) -> Result<Clients, String> {
        text.parse()
    }
}

impl From<Clients> for String {
    fn from(clients: Clients) -> String {
        clients.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_found_by_address_network_and_kind() {
        let tcp = |address: &str| Peer::Tcp(address.parse().expect("an address"));
        for (asked, client, has) in [
            ("192.0.2.7", tcp("192.0.2.7:1"), true),
            ("192.0.2.7", tcp("192.0.2.8:1"), false),
            ("192.0.2.7:1", tcp("192.0.2.7:1"), true),
            ("192.0.2.7:1", tcp("192.0.2.7:2"), false),
            ("192.0.2.0/24", tcp("192.0.2.255:1"), true),
            ("192.0.2.99/24", tcp("192.0.2.1:1"), true),
            ("192.0.2.0/24", tcp("192.0.3.0:1"), false),
            ("0.0.0.0/0", tcp("192.0.2.7:1"), true),
            ("0.0.0.0/0", tcp("[2001:db8::7]:1"), false),
            ("::/0", tcp("[2001:db8::7]:1"), true),
            ("2001:db8::/32", tcp("[2001:db8:ffff::7]:1"), true),
            ("2001:db8::/32", tcp("[2001:db9::7]:1"), false),
            ("[2001:db8::7]:1", tcp("[2001:db8::7]:1"), true),
            ("::/0", tcp("192.0.2.7:1"), false),
            ("::/0", Peer::Unix(1), false),
            ("unix", Peer::Unix(1), true),
            ("unix", tcp("192.0.2.7:1"), false),
            ("unix:pid=1", Peer::Unix(1), true),
            ("unix:pid=1", Peer::Unix(2), false),
        ] {
            let clients: Clients = asked.parse().expect(asked);
            assert_eq!(clients.has(&client), has, "{asked} {client}");
            assert_eq!(clients.to_string().parse(), Ok(clients), "{asked}");
        }
    }

    #[test]
    fn what_names_no_client_is_told_what_does() {
        for wrong in
            ["", "localhost", "192.0.2.0/33", "192.0.2/24", "2001:db8::/129", "unix:", "unix:pid=x", "/"]
        {
            let error = wrong.parse::<Clients>().expect_err(wrong);
            assert!(error.starts_with(&format!("{wrong:?} names no client")), "{error}");
            assert!(error.contains("192.0.2.0/24"), "{error}");
        }
    }
}
