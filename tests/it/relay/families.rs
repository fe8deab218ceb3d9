//! TCP over IPv4 and IPv6, UNIX sockets by path and abstract name, and passed listeners.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send};

use crate::support::drained::Setup;
use crate::support::peers::{Ended, Listener, connect, end_of, read_to_end, talk};
use crate::support::scratch::Scratch;

/// An address of each family for `name`; TCP ports are the kernel's choice.
fn addresses(scratch: &Scratch, name: &str) -> Vec<String> {
    let path = scratch.path(format!("{name}.sock"));
    let unique = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    vec![
        "127.0.0.1:0".to_owned(),
        "[::1]:0".to_owned(),
        format!("unix:{}", path.display()),
        format!("unix:@{unique}-{name}"),
    ]
}

#[test]
fn every_family_on_either_side() {
    let scratch = Scratch::new();
    let upstreams: Vec<_> = addresses(&scratch, "up").iter().map(|address| Listener::on(address)).collect();
    let mut config = String::new();
    for (u, upstream) in upstreams.iter().enumerate() {
        let listen = addresses(&scratch, &format!("in{u}"));
        config += &format!("[proxy.p{u}]\nlisten = {listen:?}\nupstream = \"{}\"\n", upstream.address);
    }
    let drained = Setup::new(&config).start();
    let listening = drained.addresses();
    assert_eq!(listening.len(), 16);
    for (n, address) in listening.iter().enumerate() {
        let client = connect(address);
        let server = upstreams[n / 4].accept();
        talk(&client, &server);
        (&client).write_all(b"last words").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&server), (b"last words".to_vec(), Ended::Fin), "{address}");
        drop(server);
        assert_eq!(end_of(&client), Ended::Fin, "{address}");
    }
    let paths: Vec<_> = (0..4).map(|u| scratch.path(format!("in{u}.sock"))).collect();
    assert!(paths.iter().all(|path| path.exists()));
    drained.stop();
    assert!(!paths.iter().any(|path| path.exists()), "the socket files are removed");
}

#[test]
fn a_passed_listener_is_found_by_its_name() {
    let upstream = Listener::new();
    let scratch = Scratch::new();
    for address in ["127.0.0.1:0", &addresses(&scratch, "passed")[2]] {
        let passed = Listener::on(address);
        let config = format!(
            "[proxy.p]\nlisten = [\"127.0.0.1:0\", \"systemd:web\"]\nupstream = \"{}\"\n",
            upstream.address
        );
        let drained = Setup::new(&config).passed(&passed.fd, "web").start();
        let addresses = drained.addresses();
        assert_eq!(addresses[1], passed.address);
        for address in &addresses {
            let client = connect(address);
            talk(&client, &upstream.accept());
        }
        drained.stop();
    }
}

/// Who starts the service by coming came before it could give its listener options.
#[test]
fn a_client_from_before_the_start_has_what_all_have() {
    let (upstream, passed) = (Listener::new(), Listener::on("127.0.0.1:0"));
    let clients = [(); 3].map(|()| connect(&passed.address));
    let config = format!("[proxy.p]\nlisten = \"systemd:web\"\nupstream = \"{}\"\n", upstream.address);
    let drained = Setup::new(&config).passed(&passed.fd, "web").start();
    for (mut client, number) in clients.iter().zip(*b"012") {
        client.write_all(&[number, b'b', b'c']).unwrap();
        send(client.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
        client.write_all(b"def").unwrap();
    }
    // The workers connect to the upstream in an order of their own.
    let mut numbers = clients.each_ref().map(|_| {
        let mut bytes = [0; 7];
        upstream.accept().read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes[1..], b"bc!def");
        bytes[0]
    });
    numbers.sort_unstable();
    assert_eq!(&numbers, b"012");
    drained.stop();
}

#[test]
fn a_name_that_was_not_passed_is_named_and_nothing_is_started() {
    let passed = Listener::new();
    let config = "[proxy.p]\nlisten = \"systemd:web\"\nupstream = \"127.0.0.1:9\"\n";
    let end = Setup::new(config).passed(&passed.fd, "other").spawn().wait_end();
    assert_eq!(end.code, Some(78));
    assert!(end.says("systemd passed no socket named web"), "{:#?}", end.lines);
}

#[test]
fn the_upstream_is_told_who_the_client_is() {
    for (version, header) in [("v1", v1 as fn(&str, &str) -> Vec<u8>), ("v2", v2)] {
        let upstream = Listener::new();
        let drained = Setup::proxy(&upstream.address, &format!("send_proxy = \"{version}\"")).start();
        let address = drained.address();
        let client = connect(&address);
        let server = upstream.accept();
        (&client).write_all(b"payload").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut expected = header(&client.local_addr().unwrap().to_string(), &address);
        expected.extend(b"payload");
        assert_eq!(read_to_end(&server).0, expected, "{version}");
    }
}

fn v1(client: &str, listener: &str) -> Vec<u8> {
    let (client, listener) = (client.split_once(':').unwrap(), listener.split_once(':').unwrap());
    format!("PROXY TCP4 {} {} {} {}\r\n", client.0, listener.0, client.1, listener.1).into_bytes()
}

fn v2(client: &str, listener: &str) -> Vec<u8> {
    let port = |address: &str| address.split_once(':').unwrap().1.parse::<u16>().unwrap().to_be_bytes();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
    header.extend(port(client));
    header.extend(port(listener));
    header
}

#[test]
fn a_client_without_an_address_is_announced_as_unknown() {
    let scratch = Scratch::new();
    let upstream = Listener::new();
    let listen = addresses(&scratch, "in").pop().unwrap();
    let config = format!(
        "[proxy.p]\nlisten = \"{listen}\"\nupstream = \"{}\"\nsend_proxy = \"v1\"\n",
        upstream.address
    );
    let _drained = Setup::new(&config).start();
    let client = connect(&listen);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&upstream.accept()).0, b"PROXY UNKNOWN\r\n");
}
