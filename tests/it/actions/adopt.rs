//! The files that have systemd drain a service, written below a directory of the test's.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Ended, command, ctl, run};
use crate::support::drained::Setup;
use crate::support::scratch::Scratch;

const DROP_IN: &str = "etc/systemd/system/myapp.service.d/50-drained.conf";
const BESIDE: &str = "etc/systemd/system/drained-before-myapp.service";

fn adopt(root: &Path, words: &[&str]) -> Ended {
    let mut all = vec!["adopt", "--root", root.to_str().unwrap()];
    all.extend(words);
    run(command("/run/drained/control.sock".into(), &all))
}

const MYAPP: [&str; 5] = ["myapp", "--proxy", "web", "--upstream", "127.0.0.1:8000"];

#[test]
fn it_shows_what_it_writes_and_takes_it_away_again() {
    let scratch = Scratch::new();
    let root = scratch.path("");
    let shown = adopt(&root, &[&MYAPP[..], &["--dry-run"]].concat());
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    assert!(!root.join("etc").exists());
    let ended = adopt(&root, &MYAPP);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let (drop_in, beside) = (fs::read_to_string(root.join(DROP_IN)), fs::read_to_string(root.join(BESIDE)));
    let (drop_in, beside) = (drop_in.unwrap(), beside.unwrap());
    assert!(shown.out.contains(drop_in.trim_end()) && shown.out.contains(beside.trim_end()), "{}", shown.out);
    assert!(ended.out.contains(beside.trim_end()), "{}", ended.out);
    assert!(drop_in.ends_with("[Unit]\nWants=drained-before-myapp.service\n"), "{drop_in}");
    let ctl = env!("CARGO_BIN_EXE_drainctl");
    for line in [
        "PartOf=myapp.service".to_owned(),
        "After=myapp.service".to_owned(),
        "RemainAfterExit=yes".to_owned(),
        format!("ExecStart=-{ctl} resume web --upstream 127.0.0.1:8000"),
        format!("ExecStop=-{ctl} drain web --upstream 127.0.0.1:8000 --wait --timeout 1m"),
        "TimeoutStopSec=90s".to_owned(),
    ] {
        assert!(beside.lines().any(|l| l == line), "{line} in {beside}");
    }
    // Again, with another time.
    assert_eq!(adopt(&root, &[&MYAPP[..], &["--timeout", "5s"]].concat()).code, Some(0));
    assert!(fs::read_to_string(root.join(BESIDE)).unwrap().contains("--timeout 5s\nTimeoutStopSec=35s\n"));
    let undone = adopt(&root, &["myapp.service", "--undo", "--dry-run"]);
    assert!(undone.out.contains(DROP_IN) && root.join(DROP_IN).exists(), "{undone:?}");
    assert_eq!(adopt(&root, &["myapp.service", "--undo"]).code, Some(0));
    let units = fs::read_dir(root.join("etc/systemd/system")).unwrap();
    assert_eq!(units.count(), 0, "nothing is left");
    let again = adopt(&root, &["myapp", "--undo"]);
    assert!(again.code == Some(65) && again.err.contains("was not adopted"), "{again:?}");
}

#[test]
fn files_of_others_are_left_alone() {
    let scratch = Scratch::new();
    let root = scratch.path("");
    for file in [DROP_IN, BESIDE] {
        let path = scratch.write(file, "[Service]\n# mine\n");
        for words in [&MYAPP[..], &["myapp", "--undo"]] {
            let ended = adopt(&root, words);
            assert_eq!((ended.code, ended.out.as_str()), (Some(65), ""), "{ended:?}");
            assert!(ended.err.contains("was not written by drainctl adopt"), "{ended:?}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Service]\n# mine\n");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn names_that_no_service_has_are_told() {
    let scratch = Scratch::new();
    for (name, why) in [
        ("app@.service", "is a template: name an instance, such as app@1.service"),
        ("drained.socket", "is a socket: only a service can be adopted"),
        ("../../passwd", "is no name of a service"),
        ("", "is no name of a service"),
    ] {
        let ended = adopt(&scratch.path(""), &[&[name], &MYAPP[1..]].concat());
        assert!(ended.code == Some(64) && ended.err.contains(why), "{ended:?}");
    }
    assert_eq!(adopt(&scratch.path(""), &["myapp"]).code, Some(64), "without an upstream");
}

#[test]
fn an_upstream_that_the_daemon_does_not_know_is_told() {
    let drained = Setup::proxy("127.0.0.1:1", "").start();
    let root = drained.scratch.path("root");
    let root = root.to_str().unwrap();
    let adopt = |proxy, upstream| {
        ctl(&drained, &["adopt", "--root", root, "myapp", "--proxy", proxy, "--upstream", upstream])
    };
    for (ended, why) in [
        (adopt("q", "127.0.0.1:1"), "unknown proxy \"q\"; known: p"),
        (adopt("p", "127.0.0.1:2"), "unknown upstream \"127.0.0.1:2\": the proxy \"p\" has 127.0.0.1:1"),
    ] {
        assert!(ended.code == Some(65) && ended.err.contains(why) && ended.out.is_empty(), "{ended:?}");
    }
    assert!(!Path::new(root).exists());
    assert_eq!(adopt("p", "127.0.0.1:1").code, Some(0));
    assert!(Path::new(root).join(BESIDE).exists());
}

/// systemd itself reads what was written, where it is installed.
#[test]
fn systemd_takes_the_files() {
    let scratch = Scratch::new();
    let root = scratch.path("");
    let odd = ["app@1", "--proxy", "web", "--upstream", "unix:/run/a \"b\" %n $HOME \\x"];
    assert_eq!(adopt(&root, &odd).code, Some(0));
    let template = "[Service]\nExecStart=/bin/true\nExecStop=/bin/true\n";
    scratch.write("etc/systemd/system/app@.service", template);
    for path in ["bin/true", env!("CARGO_BIN_EXE_drainctl").trim_start_matches('/')] {
        std::os::unix::fs::symlink("/bin/true", scratch.write(path, "").with_extension("x")).unwrap();
        let file = scratch.path(path);
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut verify = Command::new("systemd-analyze");
    verify.arg(format!("--root={}", root.display())).args(["verify", "--man=no", "--recursive-errors=no"]);
    verify.args(["app@1.service", "drained-before-app@1.service"]);
    let Ok(output) = verify.output() else {
        crate::support::left_out("no systemd-analyze on this machine");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("drained")).collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn json_is_printed_where_it_is_asked_for() {
    let scratch = Scratch::new();
    let root = scratch.path("");
    let json = |words: &[&str]| -> serde_json::Value {
        let ended = adopt(&root, words);
        assert_eq!(
            (ended.code, ended.err.as_str(), ended.out.lines().count()),
            (Some(0), "", 1),
            "{ended:?}"
        );
        serde_json::from_str(&ended.out).unwrap()
    };
    let [would, does] =
        [&["--json", "--dry-run"][..], &["--json"]].map(|more| json(&[&MYAPP[..], more].concat()));
    assert_eq!((&would["unit"], &would["adopted"]), (&"myapp.service".into(), &true.into()));
    assert_eq!((&would["dry_run"], &does["dry_run"]), (&true.into(), &false.into()));
    assert_eq!(would["files"], does["files"]);
    for (n, file) in [DROP_IN, BESIDE].iter().enumerate() {
        let path = root.join(file);
        assert_eq!(does["files"][n]["path"], path.to_str().unwrap());
        assert_eq!(does["files"][n]["content"], fs::read_to_string(path).unwrap());
    }
    for more in [&["myapp", "--undo", "--dry-run", "--json"][..], &["myapp", "--undo", "--json"]] {
        let undone = json(more);
        assert_eq!((&undone["adopted"], undone["files"].as_array().unwrap().len()), (&false.into(), 2));
        assert!(undone["files"][0].get("content").is_none() && undone["files"][0]["path"].is_string());
    }
    assert!(!root.join(DROP_IN).exists());
}
