//! The control socket against clients that are honest, silent, slow, greedy and wrong (hazard 14).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use drained::control::operator::{Reply, Who};
use drained::control::protocol::Call;
use drained::control::server::{MODE, MOST_CLIENTS, Running};
use drained::control::status::{
    Adopted, Bytes, Connections, ProxyStatus, State, UpstreamState, UpstreamStatus,
};
use drained::control::{ControlServer, Operator, Status, client};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use slog::Logger;

use crate::support::scratch::Scratch;
use crate::support::steady::steady;

/// How long anything that must happen may take.
const BOUND: Duration = Duration::from_secs(10);

const REQUEST: &[u8] = b"{\"version\":1,\"call\":\"status\"}\n";

pub fn discard() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

pub fn status_of(proxies: usize) -> Status {
    let proxy = ProxyStatus {
        state: State::Running,
        holding: false,
        protocol: "tcp".to_string(),
        connections: Connections::default(),
        bytes: Bytes::default(),
        upstreams: vec![UpstreamStatus {
            address: "127.0.0.1:8000".to_string(),
            state: UpstreamState::Up,
            connections: 0,
        }],
    };
    Status {
        version: "0.0.0-test".to_string(),
        pid: 1,
        state: State::Running,
        uptime_s: 7,
        adopted: Adopted::default(),
        proxies: (0..proxies).map(|i| (format!("proxy-{i}"), proxy.clone())).collect(),
    }
}

/// Tells of so many proxies.
pub struct Telling(pub usize);

impl Operator for Telling {
    fn answer(&self, call: Call, _who: &Who, reply: Reply) {
        match call {
            Call::Status => reply.ok(&status_of(self.0)),
            _ => reply.refuse("there is no status in that"),
        }
    }
}

/// A server on a socket of its own.
struct Served {
    path: PathBuf,
    running: Option<Running>,
    _scratch: Scratch,
}

impl Served {
    fn new(proxies: usize, patience: Duration) -> Served {
        let scratch = Scratch::new();
        let path = scratch.path("control.sock");
        let server = ControlServer::bind(&path, MODE).expect("binds").patience(patience);
        let running = server.start(discard(), Telling(proxies)).expect("starts");
        Served { path, running: Some(running), _scratch: scratch }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("connects");
        stream.set_read_timeout(Some(BOUND)).expect("a timeout");
        stream.set_write_timeout(Some(BOUND)).expect("a timeout");
        stream
    }

    fn close(&mut self) {
        let ended = self.running.take().expect("runs").close(BOUND);
        ended.expect("ends within the bound").expect("ends well");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.close();
        }
    }
}

/// All that the server still sends. A reset ends it like an end of file: the server closed while
/// it had not read all.
fn rest(mut stream: &UnixStream) -> String {
    let mut bytes = Vec::new();
    if let Err(e) = stream.read_to_end(&mut bytes) {
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "the server does not close");
    }
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn a_client_is_answered_and_the_file_goes_with_the_server() {
    let mut served = Served::new(3, BOUND);
    let metadata = fs::symlink_metadata(&served.path).expect("is there");
    assert_eq!(metadata.permissions().mode() & 0o7777, MODE);
    assert_eq!(client::status(&served.path).expect("an answer"), status_of(3));
    served.close();
    assert!(!served.path.exists());
    assert_eq!(client::status(&served.path).expect_err("gone").exit() as u8, 69);
}

#[test]
fn requests_may_come_in_pieces_or_all_at_once() {
    let served = Served::new(1, BOUND);
    let mut stream = served.connect();
    for byte in REQUEST {
        stream.write_all(&[*byte]).expect("writes");
    }
    stream.write_all(&REQUEST.repeat(50)).expect("writes");
    let mut lines = BufReader::new(&stream).lines();
    for _ in 0..51 {
        let line = lines.next().expect("a line").expect("reads");
        assert!(line.starts_with("{\"version\":1,\"ok\":{\"version\":\"0.0.0-test\""), "{line}");
    }
}

#[test]
fn garbage_gets_one_error_line_and_is_closed() {
    let served = Served::new(0, BOUND);
    for (garbage, message) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "not a line of JSON"),
        (b"\xff\x00\n", "not a line of JSON"),
        (b"{\"version\":9,\"call\":\"status\"}\n", "of version 9"),
        (b"{\"version\":1,\"call\":\"explode\"}\n", "unknown call"),
        (&[b'x'; 70_000], "longer than 64 KiB"),
    ] {
        let mut stream = served.connect();
        stream.write_all(garbage).expect("writes");
        let answer = rest(&stream);
        assert!(answer.starts_with("{\"version\":1,\"error\":\"") && answer.contains(message), "{answer}");
        assert_eq!((answer.matches('\n').count(), answer.ends_with('\n')), (1, true), "{answer}");
    }
    let mut stream = served.connect();
    stream.write_all(b"{\"version\":1").expect("writes");
    stream.shutdown(std::net::Shutdown::Write).expect("half-closes");
    assert!(rest(&stream).contains("no end of line"));
    client::status(&served.path).expect("still serves");
}

#[test]
fn a_request_behind_which_the_client_half_closes_is_answered() {
    let served = Served::new(0, BOUND);
    let mut stream = served.connect();
    stream.write_all(REQUEST).expect("writes");
    stream.shutdown(std::net::Shutdown::Write).expect("half-closes");
    assert!(rest(&stream).starts_with("{\"version\":1,\"ok\":"));
}

#[test]
fn a_silent_client_is_closed_and_delays_nobody() {
    steady(|| {
        let patience = Duration::from_secs(1);
        let served = Served::new(0, patience);
        let silent = served.connect();
        let mut dripping = served.connect();
        dripping.write_all(&REQUEST[..5]).expect("writes");
        let start = Instant::now();
        client::status(&served.path).expect("an answer beside the silent one");
        assert!(start.elapsed() < patience, "another client waited: {:?}", start.elapsed());
        assert_eq!(rest(&silent), "");
        assert_eq!(rest(&dripping), "");
        assert!(start.elapsed() < BOUND / 2, "{:?}", start.elapsed());
    });
}

#[test]
fn a_client_that_reads_nothing_is_closed_and_delays_nobody() {
    // An answer of this size does not fit into a socket's buffers.
    let served = Served::new(4_000, Duration::from_secs(2));
    let mut stream = served.connect();
    stream.write_all(REQUEST).expect("writes");
    // The first byte proves that the answer is being sent.
    let mut first = [0];
    stream.read_exact(&mut first).expect("an answer begins");
    assert_eq!(client::status(&served.path).expect("a whole answer").proxies.len(), 4_000);
    wait_until_closed(&stream);
    assert!(!rest(&stream).ends_with('\n'), "the answer was cut off");
}

/// Waits until the server has closed, without reading what it sent.
fn wait_until_closed(stream: &UnixStream) {
    // POLLHUP is always told, so no event is asked for.
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let bound = PollTimeout::try_from(BOUND).expect("fits");
    assert_eq!(poll(&mut fds, bound), Ok(1), "the server does not close");
}

#[test]
fn who_asks_nothing_makes_room_at_once() {
    let served = Served::new(0, BOUND * 10);
    let ask = |mut stream: &UnixStream| {
        stream.write_all(REQUEST).expect("it is there still");
        assert!(BufReader::new(stream).lines().next().expect("a line").is_ok());
    };
    let answered = served.connect();
    let silent: Vec<_> = (1..MOST_CLIENTS).map(|_| served.connect()).collect();
    // That the last one is answered says that all are taken in. Then the first one asks, and is the last to go.
    [silent.last().expect("many"), &answered].into_iter().for_each(ask);
    client::status(&served.path).expect("an answer");
    assert_eq!(rest(&silent[0]), "");
    let more: Vec<_> = (0..MOST_CLIENTS / 2).map(|_| served.connect()).collect();
    client::status(&served.path).expect("an answer");
    assert!(silent.iter().take(MOST_CLIENTS / 2).all(|stream| rest(stream).is_empty()));
    ask(&answered);
    drop(more);
}

#[test]
fn who_is_being_answered_keeps_the_place_and_others_wait() {
    steady(|| {
        let patience = Duration::from_secs(3);
        let served = Served::new(1_500, patience);
        let start = Instant::now();
        let ask = |_| {
            let mut stream = served.connect();
            stream.write_all(REQUEST).expect("writes");
            stream.read_exact(&mut [0]).expect("an answer begins");
            stream
        };
        let _taking: Vec<_> = (0..MOST_CLIENTS).map(ask).collect();
        client::status(&served.path).expect("an answer in the end");
        assert!(start.elapsed() >= patience, "one more than there are places was served at once");
    });
}

#[test]
fn closing_waits_for_no_client() {
    steady(|| {
        let mut served = Served::new(4_000, BOUND);
        let mut stuck = served.connect();
        stuck.write_all(REQUEST).expect("writes");
        stuck.read_exact(&mut [0]).expect("an answer begins");
        let _silent = served.connect();
        let start = Instant::now();
        served.close();
        assert!(start.elapsed() < BOUND / 2, "{:?}", start.elapsed());
    });
}

#[test]
fn only_a_dead_socket_is_replaced() {
    let scratch = Scratch::new();
    let refused = |path: &Path| {
        let error = ControlServer::bind(path, MODE).err().expect("refused");
        assert_eq!(error.exit() as u8, 71);
        error.to_string()
    };

    let stale = scratch.path("stale.sock");
    drop(UnixListener::bind(&stale).expect("binds"));
    drop(ControlServer::bind(&stale, MODE).expect("replaces it"));

    let live = scratch.path("live.sock");
    let _other = UnixListener::bind(&live).expect("binds");
    assert!(refused(&live).contains("another daemon answers"));
    assert!(live.exists());

    // A daemon that does not get around to accepting is alive.
    let _waiting = fill(&live);
    assert!(refused(&live).contains("another daemon answers"));

    let file = scratch.write("file", "precious");
    assert!(refused(&file).contains("is no socket"));
    assert_eq!(fs::read(&file).expect("is there"), b"precious");

    assert!(
        refused(&scratch.path("none/control.sock"))
            .contains("none/control.sock (its directory does not exist): ")
    );
}

/// Connections until the backlog is full.
fn fill(path: &Path) -> Vec<OwnedFd> {
    let address = UnixAddr::new(path).expect("fits");
    let mut filled = Vec::new();
    loop {
        let fd =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => filled.push(fd),
            Err(e) => {
                assert_eq!(e, Errno::EAGAIN);
                return filled;
            }
        }
    }
}

#[test]
fn the_file_of_a_successor_is_left_alone() {
    let scratch = Scratch::new();
    let path = scratch.path("control.sock");
    let server = ControlServer::bind(&path, MODE).expect("binds");
    fs::remove_file(&path).expect("removes");
    let _successor = UnixListener::bind(&path).expect("binds");
    let inode = fs::symlink_metadata(&path).expect("is there").ino();
    drop(server);
    assert_eq!(fs::symlink_metadata(&path).expect("is there still").ino(), inode);
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up() {
    let scratch = Scratch::new();
    let path = scratch.path("control.sock");
    let _listener = UnixListener::bind(&path).expect("binds");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(client::status(&path).map_err(|e| e.to_string())));
    let error = told.recv_timeout(BOUND).expect("within the bound").expect_err("no answer");
    assert!(error.contains("did not answer"), "{error}");
}

/// Gives its replies to somebody else.
struct Passing(mpsc::Sender<(Who, Reply)>);

impl Operator for Passing {
    fn answer(&self, _call: Call, who: &Who, reply: Reply) {
        self.0.send((*who, reply)).expect("somebody answers");
    }
}

#[test]
fn an_answer_may_come_later_and_from_another_thread() {
    let scratch = Scratch::new();
    let path = scratch.path("control.sock");
    let (pass, passed) = mpsc::channel();
    let server = ControlServer::bind(&path, MODE).expect("binds");
    let running = server.start(discard(), Passing(pass)).expect("starts");
    let ask = || {
        let mut client = UnixStream::connect(&path).expect("connects");
        client.set_read_timeout(Some(BOUND)).expect("a timeout");
        client.write_all(REQUEST).expect("asks");
        let (who, reply) = passed.recv_timeout(BOUND).expect("is asked");
        (client, who, reply)
    };
    let (first, who, kept) = ask();
    let credentials = who.credentials.expect("the kernel knows");
    assert_eq!(credentials.pid, std::process::id() as i32);
    let (second, _, dropped) = ask();
    let (gone, _, unheard) = ask();
    drop(gone);
    drop(dropped);
    unheard.ok(&status_of(1));
    let line = |client: UnixStream| {
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).expect("an answer");
        line
    };
    assert!(line(second).contains("drained gave no answer"));
    kept.ok(&status_of(1));
    assert!(line(first).contains("proxy-0"));
    assert!(running.close(BOUND).is_some_and(|ended| ended.is_ok()));
}

#[test]
fn who_waits_for_an_answer_that_never_comes_is_closed_and_makes_room() {
    let scratch = Scratch::new();
    let path = scratch.path("control.sock");
    let (pass, passed) = mpsc::channel();
    let server = ControlServer::bind(&path, MODE).expect("binds").patience(Duration::from_millis(300));
    let running = server.start(discard(), Passing(pass)).expect("starts");
    let ask = || {
        let mut client = UnixStream::connect(&path).expect("connects");
        client.set_read_timeout(Some(BOUND)).expect("a timeout");
        client.write_all(REQUEST).expect("asks");
        client
    };
    // Those for whom there is no place wait in the backlog, which has room for as many again.
    let clients: Vec<_> = (0..2 * MOST_CLIENTS).map(|_| ask()).collect();
    assert!(clients.iter().all(|client| rest(client).is_empty()));
    let kept: Vec<_> = passed.try_iter().collect();
    assert_eq!(kept.len(), 2 * MOST_CLIENTS);
    // An answer to somebody who has gone goes nowhere.
    kept.into_iter().for_each(|(_, reply)| reply.ok(&status_of(1)));
    let client = ask();
    passed.recv_timeout(BOUND).expect("is asked").1.ok(&status_of(1));
    assert!(rest(&client).contains("proxy-0"));
    assert!(running.close(BOUND).is_some_and(|ended| ended.is_ok()));
}
