//! Addresses as the file writes them: `127.0.0.1:80`, `[::1]:80`, `unix:/path`, `unix:@name`,
//! `systemd:NAME`.
//!
//! No name is ever resolved: an address that changes under a running proxy is worse than none.
//! Each error says what would be right.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{ListenAddress, MetricsAddress, UnixPath, UpstreamAddress};

/// The longest path of a UNIX socket in bytes: sun_path less its closing NUL, see unix(7).
const LONGEST_UNIX_PATH: usize = 107;

/// The longest FileDescriptorName=, see systemd.socket(5).
const LONGEST_FD_NAME: usize = 255;

pub(super) fn listen(text: &str) -> Result<ListenAddress, String> {
    if let Some(name) = text.strip_prefix("systemd:") {
        return fd_name(name).map(ListenAddress::Systemd);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(ListenAddress::Unix);
    }
    tcp(text).map(ListenAddress::Tcp)
}

pub(super) fn upstream(text: &str) -> Result<UpstreamAddress, String> {
    if text.starts_with("systemd:") {
        return Err(format!("{text:?} is no address to connect to: systemd: is for listen alone"));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(UpstreamAddress::Unix);
    }
    let address = tcp(text)?;
    let port = address.port();
    if port == 0 {
        return Err(format!("{text:?} has the port 0: a port to connect to is 1 to 65535"));
    }
    if address.ip().is_unspecified() {
        let local = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
        return Err(format!(
            "{text:?} is no address to connect to: for this machine write \"{local}:{port}\""
        ));
    }
    Ok(UpstreamAddress::Tcp(address))
}

/// Where metrics are told.
pub(super) fn metrics(text: &str) -> Result<MetricsAddress, String> {
    if text.is_empty() {
        return Err(
            "the address is empty: write for example \"127.0.0.1:9130\", or leave metrics out for none"
                .to_string(),
        );
    }
    match listen(text)? {
        ListenAddress::Tcp(address) => Ok(MetricsAddress::Tcp(address)),
        ListenAddress::Unix(path) => Ok(MetricsAddress::Unix(path)),
        ListenAddress::Systemd(_) => Err(format!(
            "{text:?}: sockets of systemd are for the listen of proxies alone: write for example \"127.0.0.1:9130\""
        )),
    }
}

/// The path of a UNIX socket in the file system.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty: write an absolute path".to_string());
    }
    if let Some(path) = text.strip_prefix("unix:").filter(|path| Path::new(path).is_absolute()) {
        return Err(format!("{text:?} is an address, and here stands a path alone: write {path:?}"));
    }
    if !Path::new(text).is_absolute() {
        return Err(format!("the path {text:?} is relative: write an absolute path, from / on"));
    }
    if text.ends_with('/') {
        return Err(format!("the path {text:?} is a directory: write the path of the socket in it"));
    }
    check_socket_name(text)?;
    Ok(PathBuf::from(text))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => path.fmt(f),
            ListenAddress::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamAddress::Tcp(address) => address.fmt(f),
            UpstreamAddress::Unix(path) => path.fmt(f),
        }
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricsAddress::Tcp(address) => address.fmt(f),
            MetricsAddress::Unix(path) => path.fmt(f),
        }
    }
}

impl FromStr for UpstreamAddress {
    type Err = String;

    /// As the configuration has it.
    fn from_str(text: &str) -> Result<UpstreamAddress, String> {
        upstream(text)
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixPath::Path(path) => write!(f, "unix:{}", path.display()),
            UnixPath::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

fn unix(text: &str) -> Result<UnixPath, String> {
    let Some(name) = text.strip_prefix('@') else {
        return socket_path(text).map(UnixPath::Path);
    };
    if name.is_empty() {
        return Err("\"unix:@\" has no name: write unix:@NAME".to_string());
    }
    check_socket_name(name)?;
    Ok(UnixPath::Abstract(name.to_string()))
}

fn check_socket_name(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_UNIX_PATH {
        return Err(format!(
            "the path {text:?} has {} bytes: a UNIX socket takes {LONGEST_UNIX_PATH} at most",
            text.len()
        ));
    }
    if text.contains('\0') {
        return Err(format!("the path {text:?} has a zero byte in it"));
    }
    Ok(())
}

fn fd_name(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("\"systemd:\" has no name: write the FileDescriptorName= of the socket unit".to_string());
    }
    if name.len() > LONGEST_FD_NAME {
        let length = name.len();
        return Err(format!("the name after systemd: has {length} characters: {LONGEST_FD_NAME} at most"));
    }
    match name.chars().find(|c| *c == ':' || !(' '..='~').contains(c)) {
        Some(bad) => Err(format!(
            "the name {name:?} after systemd: has {bad:?} in it: FileDescriptorName= takes printable ASCII without ':'"
        )),
        None => Ok(name.to_string()),
    }
}

fn tcp(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| explain(text))?;
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            let plain = SocketAddr::new(ip.to_canonical(), address.port());
            Err(format!("{text:?} is an IPv4 address in IPv6 form: write \"{plain}\""))
        }
        _ => Ok(address),
    }
}

/// What is wrong with an address that is none.
fn explain(text: &str) -> String {
    if text.is_empty() {
        return "the address is empty: write for example \"127.0.0.1:8000\"".to_string();
    }
    if text.contains(char::is_whitespace) || text.contains(',') {
        return format!("{text:?} is not one address: write several as a list, without blanks in them");
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or_default();
        return format!("{text:?} is a URL: leave out \"{scheme}://\" and write the address, \"{rest}\"");
    }
    if text.starts_with(['/', '.', '@']) {
        return format!("{text:?} is a path: write \"unix:{text}\" for a UNIX socket");
    }
    if text.contains('%') {
        return format!(
            "{text:?} names an interface: write its number, as in \"[fe80::1%2]:80\" (see ip link)"
        );
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        return bare_ipv6(text, ip);
    }
    if text.parse::<IpAddr>().is_ok() {
        return format!("{text:?} has no port: write it behind a colon, as in \"{text}:80\"");
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return any_address(text, text);
    }
    match text.rsplit_once(':') {
        None => {
            format!("{text:?} is not an address: give an IP address and a port, as in \"127.0.0.1:8000\"")
        }
        Some(("" | "*", port)) => any_address(text, port),
        Some((host, port)) => host_and_port(text, host, port),
    }
}

fn any_address(text: &str, port: &str) -> String {
    format!("{text:?} has no IP address: \"0.0.0.0:{port}\" is all of IPv4, \"[::]:{port}\" all of IPv6")
}

fn host_and_port(text: &str, host: &str, port: &str) -> String {
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        let host =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.into() };
        return match port {
            "" => format!("{text:?} has no port behind the colon: write for example \"{host}:80\""),
            _ if port.parse::<u16>().is_ok() && host.starts_with('[') && !host.contains(':') => {
                format!("{text:?} is not an address: an IPv4 address stands without brackets")
            }
            _ if port.parse::<u16>().is_ok() => {
                format!("{text:?} is not an address: write \"{host}:{port}\"")
            }
            _ => format!("{text:?} has the bad port {port:?}: a port is a number from 0 to 65535"),
        };
    }
    if host == "localhost" {
        return format!(
            "{text:?} is a host name: give an IP address, as in \"127.0.0.1:{port}\" or \"[::1]:{port}\""
        );
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return format!(
            "{text:?} has the bad IP address {host:?}: four numbers from 0 to 255, as in 127.0.0.1"
        );
    }
    if host.starts_with('[') || host.contains(':') {
        return format!("{text:?} is not an address: an IPv6 address is written as in \"[::1]:80\"");
    }
    format!("{text:?} is a host name: give an IP address, as in \"127.0.0.1:{port}\"")
}

/// An IPv6 address where an address with a port belongs; its last group may be meant as the port.
fn bare_ipv6(text: &str, ip: Ipv6Addr) -> String {
    if text.starts_with('[') && text.ends_with(']') {
        return format!("{text:?} has no port: write it behind a colon, as in \"{text}:80\"");
    }
    let split = text.rsplit_once(':').and_then(|(host, port)| {
        Some((host.parse::<Ipv6Addr>().ok()?, port.parse::<u16>().ok()?)).filter(|_| port.len() > 1)
    });
    match split {
        Some((host, port)) => {
            format!("{text:?}: an IPv6 address stands in brackets: write \"[{host}]:{port}\"")
        }
        None => format!("{text:?}: an IPv6 address stands in brackets and has a port: write \"[{ip}]:80\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in [
            "127.0.0.1:80",
            "0.0.0.0:0",
            "[::]:80",
            "[fe80::1%2]:80",
            "unix:/run/a.sock",
            "unix:@name",
            "systemd:web",
            "systemd:drained.socket",
        ] {
            assert_eq!(listen(text).map(|a| a.to_string()), Ok(text.to_string()));
        }
        for text in ["127.0.0.1:8000", "[::1]:8000", "unix:/run/app.sock", "unix:@app"] {
            assert_eq!(upstream(text).map(|a| a.to_string()), Ok(text.to_string()));
        }
        let longest = format!("unix:/{}", "x".repeat(106));
        assert!(listen(&longest).is_ok());
        assert!(listen(&format!("systemd:{}", "x".repeat(255))).is_ok());
    }

    #[test]
    fn says_what_would_be_right() {
        for (text, right) in [
            ("", "for example"),
            ("localhost:8000", "give an IP address, as in \"127.0.0.1:8000\""),
            ("app.example.org:80", "is a host name: give an IP address"),
            ("localhost", "give an IP address and a port"),
            ("127.0.0.1", "has no port"),
            ("127.0.0.1:", "has no port behind the colon"),
            ("127.0.0.1:http", "bad port \"http\""),
            ("127.0.0.1:70000", "bad port \"70000\""),
            ("127.0.0.1:-1", "bad port"),
            ("256.0.0.1:80", "bad IP address \"256.0.0.1\""),
            ("127.1:80", "bad IP address"),
            ("::1:8080", "write \"[::1]:8080\""),
            ("fe80::1:80", "write \"[fe80::1]:80\""),
            ("::1", "write \"[::1]:80\""),
            ("[::1]", "\"[::1]:80\""),
            ("[::1]:", "has no port behind the colon"),
            ("2001:db8:0:0:0:0:0:1:80", "write \"[2001:db8:0:0:0:0:0:1]:80\""),
            ("[127.0.0.1]:80", "without brackets"),
            ("[::1]:99999", "bad port"),
            ("[fe80::1%eth0]:80", "write its number"),
            ("[::ffff:127.0.0.1]:80", "write \"127.0.0.1:80\""),
            ("http://127.0.0.1:80/x", "\"127.0.0.1:80\""),
            ("80", "0.0.0.0:80"),
            (":80", "0.0.0.0:80"),
            ("*:80", "0.0.0.0:80"),
            ("/run/app.sock", "\"unix:/run/app.sock\""),
            ("unix:app.sock", "absolute path"),
            ("unix:", "empty"),
            ("unix:@", "has no name"),
            ("unix:/run/", "is a directory"),
            ("unix:/run/\0", "zero byte"),
            ("127.0.0.1:80 ", "without blanks"),
            ("127.0.0.1:80,127.0.0.1:81", "as a list"),
            ("systemd:", "has no name"),
            ("systemd:a:b", "without ':'"),
            ("systemd:a\tb", "printable ASCII"),
            ("systemd:\u{e9}", "printable ASCII"),
        ] {
            let error = listen(text).expect_err(text);
            assert!(error.contains(right), "{text:?}: {error}");
        }
        for (text, right) in [
            ("systemd:web", "for listen alone"),
            ("0.0.0.0:80", "write \"127.0.0.1:80\""),
            ("[::]:80", "write \"[::1]:80\""),
            ("127.0.0.1:0", "1 to 65535"),
        ] {
            let error = upstream(text).expect_err(text);
            assert!(error.contains(right), "{text:?}: {error}");
        }
        assert_eq!(metrics("[::1]:9130").map(|a| a.to_string()), Ok("[::1]:9130".to_string()));
        assert!(metrics("").is_err_and(|e| e.contains("\"127.0.0.1:9130\", or leave metrics out")));
        assert!(socket_path("unix:/run/a").is_err_and(|e| e.ends_with("write \"/run/a\"")));
        assert!(metrics("systemd:web").is_err_and(|e| e.contains("\"127.0.0.1:9130\"")));
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(listen(&long).is_err_and(|e| e.contains("107 at most")));
        assert!(listen(&format!("systemd:{}", "x".repeat(256))).is_err_and(|e| e.contains("255 at most")));
    }
}
