//! Files that are made from the command lines: man pages and completions, checked in and current.
//!
//! `DRAINED_BLESS=1 cargo test --test it generated` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::CommandFactory;
use clap_complete::Shell;
use drained::cli;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

/// A program, the section of its man page, and its synopsis in roff.
struct Program {
    name: &'static str,
    section: &'static str,
    synopsis: &'static str,
    command: clap::Command,
}

fn programs() -> [Program; 2] {
    let drained = Program {
        name: "drained",
        section: "8",
        synopsis: r"\fBdrained\fR [\fB\-\-config\fR \fIFILE\fR] [\fB\-\-log\-level\fR \fILEVEL\fR]
.br
\fBdrained\fR \fB\-\-listen\fR \fIADDR\fR... \fB\-\-upstream\fR \fIADDR\fR... [\fB\-\-protocol\fR \fIPROTOCOL\fR] [\fB\-\-deadline\fR \fITIME\fR]
.br
\fBdrained check\fR [\fB\-\-config\fR \fIFILE\fR]
.br
\fBdrained demo\fR
",
        command: cli::drained::Options::command(),
    };
    let drainctl = Program {
        name: "drainctl",
        section: "1",
        synopsis: r"\fBdrainctl\fR [\fB\-\-socket\fR \fIPATH\fR] [\fB\-\-json\fR] \fBstatus\fR
.br
\fBdrainctl\fR [\fB\-\-socket\fR \fIPATH\fR] [\fB\-\-json\fR] \fBconnections\fR [\fIPROXY\fR] [\fB\-\-upstream\fR \fIADDR\fR] [\fB\-\-client\fR \fICLIENT\fR] [\fB\-\-state\fR \fISTATE\fR] [\fB\-\-sort\fR \fIKEY\fR] [\fB\-\-limit\fR \fIN\fR]
.br
\fBdrainctl\fR [\fB\-\-socket\fR \fIPATH\fR] \fBtop\fR
.br
\fBdrainctl\fR [...] \fBdrain\fR \fIPROXY\fR [\fB\-\-upstream\fR \fIADDR\fR] [\fB\-\-wait\fR] [\fB\-\-timeout\fR \fITIME\fR]
.br
\fBdrainctl\fR [...] \fBresume\fR \fIPROXY\fR [\fB\-\-upstream\fR \fIADDR\fR] [\fB\-\-wait\fR [\fB\-\-timeout\fR \fITIME\fR]]
.br
\fBdrainctl\fR [...] \fBhold\fR \fIPROXY\fR [\fB\-\-timeout\fR \fITIME\fR]
.br
\fBdrainctl\fR [...] \fBadopt\fR \fIUNIT\fR \fB\-\-proxy\fR \fIPROXY\fR \fB\-\-upstream\fR \fIADDR\fR [\fB\-\-timeout\fR \fITIME\fR] [\fB\-\-dry\-run\fR] [\fB\-\-yes\fR]
.br
\fBdrainctl\fR [...] \fBadopt\fR \fIUNIT\fR \fB\-\-undo\fR [\fB\-\-dry\-run\fR]
.br
\fBdrainctl\fR [...] \fBreload\fR
",
        command: cli::drainctl::Options::command(),
    };
    [drained, drainctl]
}

/// Holds the checked-in file to what it should be, or makes it so.
fn assert_current(path: &Path, content: &[u8]) {
    if std::env::var_os("DRAINED_BLESS").is_some_and(|value| value == "1") {
        fs::write(path, content).expect("writes");
    }
    let found = fs::read(path).unwrap_or_default();
    assert!(found == content, "{} is not current: set DRAINED_BLESS=1 and test again", path.display());
}

#[test]
fn man_pages_are_current() {
    for Program { name, section, synopsis, command } in programs() {
        let file = format!("{name}.{section}");
        let manual = if section == "8" { "System Administration" } else { "User Commands" };
        let mut page = format!(".TH {name} {section} \"\" \"drained\" \"{manual}\"\n").into_bytes();
        let man = clap_mangen::Man::new(command);
        man.render_name_section(&mut page).expect("renders");
        page.extend(format!(".SH SYNOPSIS\n{synopsis}").bytes());
        man.render_description_section(&mut page).expect("renders");
        man.render_options_section(&mut page).expect("renders");
        page.extend(
            fs::read(packaging().join("man/sections").join(&file)).expect("the hand-written sections"),
        );
        assert_current(&packaging().join("man").join(file), &page);
    }
}

#[test]
fn completions_are_current() {
    for Program { name, command, .. } in programs() {
        for (shell, file) in [
            (Shell::Bash, format!("{name}.bash")),
            (Shell::Zsh, format!("_{name}")),
            (Shell::Fish, format!("{name}.fish")),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command.clone(), name, &mut script);
            assert_current(&packaging().join("completions").join(file), &script);
        }
    }
}

/// groff's own warnings, where man(1) is installed: none.
#[test]
fn man_pages_are_without_warnings() {
    for page in ["drained.8", "drainctl.1", "drained.toml.5"] {
        let man = Command::new("man")
            .args(["--warnings=w", "--encoding=UTF-8", "--local-file"])
            .arg(packaging().join("man").join(page))
            .env("MANWIDTH", "80")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output();
        let Ok(output) = man else {
            crate::support::left_out(&format!("man(1) is not installed: {page} is not checked"));
            return;
        };
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warnings.is_empty(), "{page}: {warnings}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("SEE ALSO"), "{page} renders");
    }
}
