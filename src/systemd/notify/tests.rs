//! The notifier against a socket that the test owns, and its queue without one.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::*;

/// A bound for what must happen at once.
const SOON: Duration = Duration::from_secs(5);

struct Manager {
    socket: UnixDatagram,
    address: String,
    path: Option<PathBuf>,
}

impl Manager {
    fn at_path(name: &str) -> Manager {
        let path = std::env::temp_dir().join(format!("drained-notify-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { socket, address: path.to_str().unwrap().to_owned(), path: Some(path) }
    }

    fn abstract_name(name: &str) -> Manager {
        let name = format!("drained-notify-{}-{name}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager { socket, address: format!("@{name}"), path: None }
    }

    fn notifier(&self) -> Notifier {
        notifier(&self.address)
    }

    fn read(&self) -> String {
        self.socket.set_read_timeout(Some(SOON)).unwrap();
        let mut text = [0; 4096];
        let length = self.socket.recv(&mut text).expect("a message within the bound");
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    /// Fills the socket's queue; returns how many messages fit.
    fn stuff(&self) -> usize {
        let stuffer = UnixDatagram::unbound().unwrap();
        stuffer.set_nonblocking(true).unwrap();
        let fill = || match &self.path {
            Some(path) => stuffer.send_to(b"X=1\n", path),
            None => unreachable!("stuffed are sockets with a path"),
        };
        (0..).take_while(|_| fill().is_ok()).count()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn notifier(address: &str) -> Notifier {
    let log = Logger::root(slog::Discard, slog::o!());
    let notifier = Notifier::to(Socket::open(address.as_ref()), log);
    notifier.start().unwrap();
    notifier
}

#[test]
fn messages_have_the_text_of_sd_notify_and_the_order_of_the_calls() {
    let manager = Manager::abstract_name("text");
    let notifier = manager.notifier();
    notifier.ready();
    notifier.reloading();
    notifier.watchdog();
    notifier.extend_timeout(Duration::from_secs(5));
    notifier.errno(2);
    notifier.fdstore_remove("drained-lot").unwrap();
    notifier.stopping(Duration::from_secs(5), "Going\nREADY=1");
    assert_eq!(manager.read(), "READY=1\n");
    let reloading = manager.read();
    let monotonic = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
    assert!(monotonic.parse::<u64>().unwrap() > 0);
    assert_eq!(manager.read(), "WATCHDOG=1\n");
    assert_eq!(manager.read(), "EXTEND_TIMEOUT_USEC=5000000\n");
    assert_eq!(manager.read(), "ERRNO=2\n");
    assert_eq!(manager.read(), "FDSTOREREMOVE=1\nFDNAME=drained-lot\n");
    assert_eq!(manager.read(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=5000000\nSTATUS=Going READY=1\n");
    assert!(notifier.flush(SOON));
}

#[test]
fn of_many_status_texts_few_are_sent_and_the_last_always() {
    let manager = Manager::abstract_name("status");
    let notifier = manager.notifier();
    let began = Instant::now();
    for number in 0..10_000 {
        notifier.status(format!("number {number}"));
    }
    assert!(notifier.flush(SOON));
    let allowed = 2 + began.elapsed().as_millis() / 200;
    manager.socket.set_nonblocking(true).unwrap();
    let mut text = [0; 100];
    let texts: Vec<_> =
        std::iter::from_fn(|| manager.socket.recv(&mut text).ok().map(|n| text[..n].to_vec())).collect();
    assert!(texts.len() as u128 <= allowed, "{} texts, {allowed} allowed", texts.len());
    assert_eq!(texts.last().unwrap(), b"STATUS=number 9999\n");
    notifier.status("number 9999");
    assert!(notifier.flush(SOON));
    assert!(manager.socket.recv(&mut text).is_err(), "the same text again is not sent");
}

#[test]
fn a_full_socket_loses_nothing_and_changes_no_order() {
    let manager = Manager::at_path("full");
    let stuffed = manager.stuff();
    assert!(stuffed > 0);
    let notifier = manager.notifier();
    notifier.status("lost in the next");
    notifier.ready();
    for _ in 0..3 {
        notifier.extend_timeout(Duration::from_secs(5));
    }
    notifier.stopping(Duration::from_secs(5), "Stopping");
    notifier.status("the last");
    let asked = Instant::now();
    assert!(!notifier.flush(Duration::from_millis(50)), "it cannot have been sent");
    assert!(asked.elapsed() < SOON);
    for _ in 0..stuffed {
        assert_eq!(manager.read(), "X=1\n");
    }
    assert_eq!(manager.read(), "READY=1\n");
    assert_eq!(manager.read(), "EXTEND_TIMEOUT_USEC=5000000\n");
    assert_eq!(manager.read(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=5000000\nSTATUS=Stopping\n");
    assert_eq!(manager.read(), "STATUS=the last\n");
}

#[test]
fn a_socket_that_is_gone_is_given_up_and_found_again() {
    let manager = Manager::at_path("gone");
    let notifier = manager.notifier();
    drop(manager);
    notifier.ready();
    assert!(notifier.flush(SOON), "what cannot be sent does not stay in the queue");
    assert!(notifier.barrier(SOON).is_err());
    let manager = Manager::at_path("gone");
    notifier.watchdog();
    assert_eq!(manager.read(), "WATCHDOG=1\n");
    for address in ["vsock:2:1", "/nowhere/at/all", "relative"] {
        let broken = self::notifier(address);
        broken.ready();
        assert!(broken.flush(SOON), "{address}");
    }
}

#[test]
fn a_log_that_blocks_keeps_no_caller() {
    let (blocked, written) = std::sync::mpsc::sync_channel::<()>(0);
    let blocked = slog::Fuse(Waits(std::sync::Mutex::new(blocked)));
    let notifier = Notifier::to(Socket::open("/nowhere/at/all".as_ref()), Logger::root(blocked, slog::o!()));
    notifier.start().unwrap();
    let (done, called) = std::sync::mpsc::channel();
    let caller = notifier.clone();
    std::thread::spawn(move || {
        caller.ready();
        done.send(()).unwrap();
    });
    called.recv_timeout(SOON).expect("the call returns");
    written.recv_timeout(SOON).expect("what it met is logged");
}

/// A drain whose every write waits for the test.
struct Waits(std::sync::Mutex<std::sync::mpsc::SyncSender<()>>);

impl slog::Drain for Waits {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, _: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        // An error is a test that has ended.
        let _ = self.0.lock().unwrap().send(());
        Ok(())
    }
}

#[test]
fn stored_file_descriptors_arrive_in_messages_of_253_at_most() {
    let manager = Manager::abstract_name("fds");
    let notifier = manager.notifier();
    let file = std::fs::File::open("/dev/null").unwrap();
    notifier.fdstore("drained-lot", &vec![file.as_fd(); 300]).unwrap();
    let counts = [(); 2].map(|()| {
        manager.socket.set_read_timeout(Some(SOON)).unwrap();
        let mut text = [0; 100];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; 253]);
        let mut slices = [IoSliceMut::new(&mut text)];
        let message = recvmsg::<()>(
            manager.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .unwrap();
        let length = message.bytes;
        let fds = message.cmsgs().unwrap().map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.len(),
            _ => 0,
        });
        let fds = fds.sum::<usize>();
        assert_eq!(&text[..length], b"FDSTORE=1\nFDNAME=drained-lot\nFDPOLL=0\n");
        fds
    });
    assert_eq!(counts, [253, 47]);
    for name in ["", "a:b", "a\nREADY=1", &"x".repeat(256)] {
        assert!(notifier.fdstore(name, &[file.as_fd()]).is_err(), "{name:?}");
    }
}

#[test]
fn a_barrier_waits_until_the_manager_has_read_it() {
    let manager = Manager::abstract_name("barrier");
    let notifier = manager.notifier();
    assert!(notifier.barrier(Duration::from_millis(20)).is_err(), "nobody reads");
    notifier.ready();
    let reader = std::thread::spawn(move || [(); 3].map(|()| manager.read()));
    notifier.barrier(SOON).unwrap();
    assert_eq!(reader.join().unwrap(), ["BARRIER=1\n", "READY=1\n", "BARRIER=1\n"]);
}

#[test]
fn signs_of_life_go_on_until_they_are_done() {
    let manager = Manager::abstract_name("repeat");
    let notifier = manager.notifier();
    let mut ticks = vec![Tick::Done, Tick::Watchdog, Tick::Skip, Tick::ExtendTimeout(Duration::from_secs(1))];
    notifier.repeat(Duration::from_millis(1), move || ticks.pop().expect("not asked after Done"));
    assert_eq!(manager.read(), "EXTEND_TIMEOUT_USEC=1000000\n");
    assert_eq!(manager.read(), "WATCHDOG=1\n");
}

#[test]
fn without_a_service_manager_nothing_waits() {
    let notifier = Notifier { outbox: None };
    notifier.ready();
    notifier.status("text");
    assert!(notifier.start().is_ok() && !notifier.is_connected());
    assert!(notifier.flush(Duration::ZERO));
    assert!(notifier.barrier(Duration::ZERO).is_ok());
}

#[test]
fn what_has_no_file_descriptors_passes_those_that_cannot_be_sent() {
    let mut queue = Queue::new();
    let now = Instant::now();
    let with_fd = |text: &str| Message::new(text.into()).with_fds(vec![std::io::pipe().unwrap().0.into()]);
    queue.push(with_fd("FDSTORE=1\nFDNAME=a\n"));
    queue.push(Message::new("FDSTOREREMOVE=1\nFDNAME=a\n".into()));
    queue.push(Message::new("READY=1\n".into()));
    queue.push(with_fd("FDSTORE=1\nFDNAME=b\n"));
    queue.push(Message::new("WATCHDOG=1\n".into()));
    let stuck = queue.take(now).unwrap();
    queue.was_crowded(stuck, now);
    let passing = [(); 2].map(|()| queue.take(now).unwrap().text);
    assert_eq!(passing, ["READY=1\n", "WATCHDOG=1\n"]);
    assert!(queue.take(now).is_none() && !queue.is_empty(), "three messages wait");
    queue.push(with_fd("BARRIER=1\n"));
    queue.push(Message::new("WATCHDOG=1\n".into()));
    assert_eq!(queue.take(now).unwrap().text, "WATCHDOG=1\n");
    // Tried again, it may be refused again, or find the socket full.
    let now = queue.due().unwrap();
    let stuck = queue.take(now).unwrap();
    queue.was_crowded(stuck, now);
    assert!(queue.due().unwrap() > now, "the pause begins again");
    let now = queue.due().unwrap();
    let stuck = queue.take(now).unwrap();
    queue.was_full(stuck, now);
    assert!(queue.take(now).is_none(), "nothing is tried while the socket is full");
    let now = queue.due().unwrap();
    let order: Vec<_> = std::iter::from_fn(|| {
        let message = queue.take(now)?;
        queue.is_sent(&message);
        Some(message.text.replace('\n', " "))
    })
    .collect();
    let all = ["FDSTORE=1 FDNAME=a ", "FDSTOREREMOVE=1 FDNAME=a ", "FDSTORE=1 FDNAME=b ", "BARRIER=1 "];
    assert_eq!(order, all);
    assert!(queue.is_empty() && queue.due().is_none());
}

#[test]
fn what_waits_behind_a_full_socket_is_due_whatever_it_is() {
    let now = Instant::now();
    let with_fd = || Message::new("FDSTORE=1\n".into()).with_fds(vec![std::io::pipe().unwrap().0.into()]);
    let mut queue = Queue::new();
    queue.push(with_fd());
    queue.push(with_fd());
    let stuck = queue.take(now).unwrap();
    queue.was_crowded(stuck, now);
    assert!(queue.take(now).is_none());
    // The first gets through, the second finds the socket full: nothing is crowded any more, and it still waits.
    let now = queue.due().unwrap();
    let first = queue.take(now).unwrap();
    queue.is_sent(&first);
    let second = queue.take(now).unwrap();
    queue.was_full(second, now);
    assert!(queue.due().unwrap() > now);
    assert!(queue.take(queue.due().unwrap()).is_some());
    queue.set_status("text".into());
    let status = queue.take(now + Duration::from_secs(1)).unwrap();
    queue.was_full(status, now);
    assert!(queue.due().unwrap() > now && !queue.is_empty());
}

#[test]
fn what_was_said_has_left_when_the_call_returns() {
    let manager = Manager::abstract_name("at-once");
    let notifier =
        Notifier::to(Socket::open(manager.address.as_ref()), Logger::root(slog::Discard, slog::o!()));
    manager.socket.set_nonblocking(true).unwrap();
    let mut text = [0; 100];
    let (file, _other) = std::io::pipe().unwrap();
    notifier.fdstore("x", &[file.as_fd()]).unwrap();
    assert!(manager.socket.recv(&mut text).is_err(), "said before the start");
    // As the notifier's start, without its thread.
    assert!(notifier.outbox.as_ref().unwrap().open());
    notifier.ready();
    notifier.fdstore("x", &[file.as_fd()]).unwrap();
    let mut read = || manager.socket.recv(&mut text).map(|n| String::from_utf8(text[..n].to_vec()).unwrap());
    let stored = "FDSTORE=1\nFDNAME=x\nFDPOLL=0\n";
    assert_eq!([(); 3].map(|()| read().unwrap()), [stored, "READY=1\n", stored]);
}

#[test]
fn what_is_stored_alone_leaves_right_behind_the_removal_and_once_there_is_room() {
    let manager = Manager::at_path("alone");
    let stuffed = manager.stuff();
    let notifier = manager.notifier();
    notifier.start().unwrap();
    let (file, _other) = std::io::pipe().unwrap();
    notifier.fdstore_only("x", &[file.as_fd(), file.as_fd()]).unwrap();
    // Room for one: the removal leaves, and is not said again.
    assert_eq!(manager.read(), "X=1\n");
    (1..stuffed).for_each(|_| assert_eq!(manager.read(), "X=1\n"));
    assert_eq!(manager.read(), "FDSTOREREMOVE=1\nFDNAME=x\n");
    let (mut text, mut control) = ([0; 256], nix::cmsg_space!([std::os::fd::RawFd; 4]));
    let mut slices = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(manager.socket.as_raw_fd(), &mut slices, Some(&mut control), flags).unwrap();
    let rights = message.cmsgs().unwrap().map(|item| match item {
        ControlMessageOwned::ScmRights(fds) => fds.len(),
        _ => 0,
    });
    assert_eq!((rights.sum::<usize>(), message.bytes), (2, "FDSTORE=1\nFDNAME=x\nFDPOLL=0\n".len()));
    notifier.fdstore_only("x", &[]).unwrap();
    assert_eq!(manager.read(), "FDSTOREREMOVE=1\nFDNAME=x\n");
    assert!(notifier.flush(SOON));
}
