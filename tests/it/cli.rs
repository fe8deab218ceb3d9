//! The command lines of the real programs: what they accept, print and end with.

use std::path::Path;
use std::process::{Command, Stdio};

use drained::control::server::MODE;
use drained::control::{ControlServer, Status};

use crate::control::{Telling, discard, status_of};
use crate::support::scratch::Scratch;

const DRAINED: &str = env!("CARGO_BIN_EXE_drained");
const DRAINCTL: &str = env!("CARGO_BIN_EXE_drainctl");

/// What a program printed, and its exit code.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(program: &str, arguments: &[&str]) -> Ended {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn check(file: &Path) -> Ended {
    run(DRAINED, &["check", "--config", file.to_str().expect("UTF-8")])
}

#[test]
fn a_valid_configuration_is_said_to_be_valid() {
    let scratch = Scratch::new();
    let file = scratch.write("drained.toml", "");
    for (fragment, text, count) in [
        ("ignored.conf", "?", "no proxy"),
        ("conf.d/.hidden.toml", "?", "no proxy"),
        ("conf.d/web.toml", "[proxy.web]\nlisten = \"unix:/a\"\nupstream = \"unix:/b\"\n", "1 proxy"),
        ("conf.d/api.toml", "[proxy.api]\nlisten = \"unix:/c\"\nupstream = \"unix:/d\"\n", "2 proxies"),
    ] {
        scratch.write(fragment, text);
        let ended = check(&file);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{fragment}");
        assert_eq!(ended.out, format!("{}: valid, {count}\n", file.display()));
    }
}

#[test]
fn all_errors_of_all_files_are_told_with_78() {
    let scratch = Scratch::new();
    let file = scratch.write("drained.toml", "[daemon]\nworker = 2\n[drain]\ndeadline = \"30\"\n");
    let fragment =
        scratch.write("conf.d/web.toml", "[proxy.web]\nlisten = \"localhost:80\"\nupstream = []\n");
    let ended = check(&file);
    assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""));
    let (file, fragment) = (file.display(), fragment.display());
    let starts = [
        format!("{file}:2:1: unknown key \"worker\""),
        format!("{file}:4:12: deadline: \"30\" has no unit"),
        format!("{fragment}:2:10: listen: \"localhost:80\" is a host name"),
        format!("{fragment}:3:12: upstream is an empty list"),
    ];
    assert_eq!(ended.err.lines().count(), starts.len(), "{}", ended.err);
    for (line, start) in ended.err.lines().zip(starts) {
        assert!(line.starts_with(&start), "{line}\n{start}");
    }
}

#[test]
fn fragments_are_read_in_the_order_of_their_names() {
    let scratch = Scratch::new();
    let file = scratch.write("drained.toml", "");
    for i in [7, 3, 9, 0, 5, 1, 8, 2, 6, 4] {
        scratch.write(&format!("conf.d/{i}.toml"), "[daemon]\nworkers = 1\n");
    }
    let ended = check(&file);
    let first = scratch.path("conf.d/0.toml");
    let first = format!("workers is set twice, first at {}:2:11", first.display());
    assert_eq!(ended.err.lines().filter(|line| line.ends_with(&first)).count(), 9, "{}", ended.err);
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_reason() {
    let scratch = Scratch::new();
    let missing = scratch.path("none.toml");
    let ended = check(&missing);
    assert_eq!(ended.code, Some(78));
    assert_eq!(ended.err, format!("{}: cannot be read: No such file or directory\n", missing.display()));

    std::fs::create_dir(scratch.path("conf.d")).expect("a directory");
    std::fs::create_dir(scratch.path("conf.d/a.toml")).expect("a directory");
    let ended = check(&scratch.write("drained.toml", b"\xff"));
    assert_eq!(ended.code, Some(78));
    assert!(ended.err.contains("drained.toml:1:1: this is not UTF-8 text\n"), "{}", ended.err);
    assert!(ended.err.contains("conf.d/a.toml: cannot be read: Is a directory\n"), "{}", ended.err);
}

#[test]
fn nothing_starts_on_a_bad_configuration() {
    let scratch = Scratch::new();
    let socket = scratch.path("web.sock");
    let text = format!(
        "[proxy.web]\nlisten = \"unix:{}\"\nupstream = \"unix:/b\"\nprotocol = \"http1\"\n",
        socket.display()
    );
    let file = scratch.write("drained.toml", text);
    let ended = run(DRAINED, &["--config", file.to_str().expect("UTF-8")]);
    assert_eq!(ended.code, Some(78));
    assert!(ended.err.contains("drained.toml:4:12: protocol: \"http1\" is not available"), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    assert!(!socket.exists());
}

#[test]
fn a_wrong_usage_ends_with_64() {
    for (program, arguments) in [
        (DRAINED, &["--nonsense"][..]),
        (DRAINED, &["explode"]),
        (DRAINED, &["--log-level", "loud"]),
        (DRAINED, &["--listen", "127.0.0.1:0"]),
        (DRAINED, &["--upstream", "127.0.0.1:1"]),
        (DRAINED, &["--deadline", "1s"]),
        (DRAINED, &["--listen", "--upstream", "127.0.0.1:1"]),
        (DRAINED, &["--config", "x", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"]),
        (DRAINED, &["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--", "check"]),
        (DRAINED, &["--upstream", "127.0.0.1:1", "--listen=127.0.0.1:0", "check"]),
        (DRAINED, &["check", "--listen", "127.0.0.1:0"]),
        (DRAINCTL, &[]),
        (DRAINCTL, &["explode"]),
        (DRAINCTL, &["status", "more"]),
    ] {
        let ended = run(program, arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""), "{arguments:?}\n{}", ended.err);
        assert!(!ended.err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_bad_address_names_its_option() {
    let ended = run(DRAINED, &["--listen", "localhost:80", "80", "--upstream", "x", "--deadline", "30"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""));
    let options: Vec<_> = ended.err.lines().map(|line| line.split(": ").nth(1).expect("an option")).collect();
    assert_eq!(options, ["--deadline", "--listen", "--listen", "--upstream"], "{}", ended.err);
    assert!(ended.err.lines().all(|line| line.starts_with("drained: ")), "{}", ended.err);
}

#[test]
fn help_and_version_end_with_0() {
    for program in [DRAINED, DRAINCTL] {
        let name = Path::new(program).file_name().expect("a name").to_str().expect("UTF-8");
        let version = run(program, &["--version"]);
        assert_eq!((version.code, version.err.as_str()), (Some(0), ""));
        assert_eq!(version.out, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
        let help = run(program, &["--help"]);
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
        assert!(help.out.contains(&format!("Usage: {name}")), "{}", help.out);
    }
}

#[test]
fn drainctl_tells_how_to_start_what_does_not_run() {
    let scratch = Scratch::new();
    let socket = scratch.path("control.sock");
    drop(std::os::unix::net::UnixListener::bind(scratch.path("dead.sock")).expect("binds"));
    for path in [socket, scratch.path("dead.sock")] {
        let ended = run(DRAINCTL, &["--socket", path.to_str().expect("UTF-8"), "status"]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(69), ""));
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        assert!(ended.err.contains("drained is not running"), "{}", ended.err);
        assert!(ended.err.contains("systemctl start drained"), "{}", ended.err);
    }
}

#[test]
fn drainctl_shows_the_status() {
    let scratch = Scratch::new();
    let socket = scratch.path("control.sock");
    let server = ControlServer::bind(&socket, MODE).expect("binds");
    let running = server.start(discard(), Telling(2)).expect("starts");
    let socket = socket.to_str().expect("UTF-8");

    let screen = run(DRAINCTL, &["status", "--socket", socket]);
    assert_eq!((screen.code, screen.err.as_str()), (Some(0), ""));
    assert!(screen.out.starts_with("drained 0.0.0-test, running, pid 1, up 7s\n"), "{}", screen.out);
    assert!(screen.out.contains("\nproxy-1  running  tcp"), "{}", screen.out);

    let json = run(DRAINCTL, &["--socket", socket, "--json", "status"]);
    assert_eq!((json.code, json.err.as_str(), json.out.lines().count()), (Some(0), "", 1));
    let status: Status = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(status, status_of(2));
    drop(running);
}

#[test]
fn a_file_that_is_no_socket_is_said_to_be_none() {
    let scratch = Scratch::new();
    let file = scratch.write("drained.toml", "");
    for path in [file, scratch.path(".")] {
        for words in [&["status"][..], &["reload"], &["top"]] {
            let ended = run(DRAINCTL, &[&["--socket", path.to_str().expect("UTF-8")], words].concat());
            assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""), "{}", ended.err);
            assert!(ended.err.contains("is no socket") || words == ["top"], "{}", ended.err);
        }
    }
}

#[test]
fn the_states_are_named_in_the_help() {
    let help = run(DRAINCTL, &["connections", "--help"]).out;
    for word in drained::control::connections::Doing::WORDS {
        assert!(help.contains(word), "{word}: {help}");
    }
    let page = include_str!("../../packaging/man/drainctl.1");
    let (_, description) = page.split_once(".SH DESCRIPTION\n").expect("a description");
    assert!(!description.starts_with("Asks a running drained."), "what NAME says already");
}
