//! The PROXY protocol header that tells an upstream who the client is.
//!
//! The PROXY protocol, versions 1 and 2, as in haproxy's doc/proxy-protocol.txt, sections 2.1 and
//! 2.2. A client on a UNIX socket has no address: UNKNOWN (v1), AF_UNSPEC (v2).

use std::net::SocketAddr;

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_PROXY: u8 = 0x21;
const V2_LOCAL: u8 = 0x20;

/// The header of version 1, one line of text.
pub fn v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((client, local)) = same_family(addresses) else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), local.ip(), client.port(), local.port())
        .into_bytes()
}

/// The header of version 2, binary.
pub fn v2(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.push(V2_PROXY);
    match same_family(addresses) {
        Some((SocketAddr::V4(client), SocketAddr::V4(local))) => {
            header.extend([0x11, 0, 12]);
            header.extend(client.ip().octets());
            header.extend(local.ip().octets());
            header.extend(client.port().to_be_bytes());
            header.extend(local.port().to_be_bytes());
        }
        Some((SocketAddr::V6(client), SocketAddr::V6(local))) => {
            header.extend([0x21, 0, 36]);
            header.extend(client.ip().octets());
            header.extend(local.ip().octets());
            header.extend(client.port().to_be_bytes());
            header.extend(local.port().to_be_bytes());
        }
        _ => header.extend([0x00, 0, 0]),
    }
    header
}

/// The header of version 2 for a connection of the proxy itself, which is no client's.
pub fn v2_local() -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([V2_LOCAL, 0, 0, 0]);
    header
}

/// Both as IPv4 where an IPv6 socket took an IPv4 client in (RFC 4291, section 2.5.5.2).
fn same_family(addresses: Option<(SocketAddr, SocketAddr)>) -> Option<(SocketAddr, SocketAddr)> {
    let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (client, local) = addresses?;
    let (client, local) = (plain(client), plain(local));
    (client.is_ipv4() == local.is_ipv4()).then_some((client, local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(client: &str, local: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((client.parse().unwrap(), local.parse().unwrap()))
    }

    #[test]
    fn version_1() {
        assert_eq!(
            v1(pair("192.0.2.1:5000", "198.51.100.2:80")),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 80\r\n"
        );
        assert_eq!(
            v1(pair("[2001:db8::1]:5000", "[2001:db8::2]:80")),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 80\r\n"
        );
        assert_eq!(
            v1(pair("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
        );
        assert_eq!(v1(None), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2() {
        let v4 = v2(pair("192.0.2.1:5000", "198.51.100.2:80"));
        assert_eq!(v4[..12], *V2_SIGNATURE);
        assert_eq!(v4[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(v4[16..], [192, 0, 2, 1, 198, 51, 100, 2, 0x13, 0x88, 0, 80]);
        let v6 = v2(pair("[2001:db8::1]:5000", "[2001:db8::2]:80"));
        assert_eq!((v6[13], v6.len()), (0x21, 16 + 36));
        assert_eq!(v2(None)[12..], [0x21, 0, 0, 0]);
        assert_eq!(v2_local()[12..], [0x20, 0, 0, 0]);
    }
}
