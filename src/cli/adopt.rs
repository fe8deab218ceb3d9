//! `drainctl adopt`: has systemd drain an upstream before it stops the service behind it.
//!
//! Commands of the service itself cannot do that on every unit: ExecStop= of a drop-in comes after the
//! unit's own, by which the service has stopped already, and a drop-in that repeats them would go on with
//! the old ones when the unit is upgraded. So there is a small unit beside it, which is started after the
//! service and therefore stopped before it (After= in systemd.unit(5)), and stopped and restarted with it
//! (PartOf=). Nothing of the service changes but that it wants that unit: what drained does, or that it
//! does not run, can neither fail nor time out the service.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};

use super::actions::at_least_a_moment;
use crate::config::render_duration;
use crate::control::by_hand::ByHand;
use crate::control::protocol::Call;
use crate::control::{self, client};
use crate::{Error, Exit, Result};

/// Where administrators put units, below the root directory.
const UNITS: &str = "etc/systemd/system";
/// Units of another directory may be found by systemd, but not in need of a service's name this long.
const LONGEST_NAME: usize = 200;
/// The first line of what is written here: nothing else is ever taken away.
const MARK: &str = "# Written by drainctl adopt";
/// Beyond the time of the drain.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Adopt {
    /// The service behind the proxy: NAME or NAME.service
    unit: String,

    /// The proxy, by its name in the configuration
    #[arg(long, value_name = "PROXY", required_unless_present = "undo")]
    proxy: Option<String>,

    /// The service's address, as the proxy's configuration writes it
    #[arg(long, value_name = "ADDR", required_unless_present = "undo")]
    upstream: Option<String>,

    /// Cut what is left of its connections after this time
    #[arg(long, value_name = "TIME", value_parser = at_least_a_moment, default_value = "60s")]
    timeout: Duration,

    /// Only show what would be written
    #[arg(long)]
    dry_run: bool,

    /// Take away what was written
    #[arg(long)]
    undo: bool,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    /// Write below this directory and leave systemd alone
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

/// A file to write or to take away.
#[derive(Serialize)]
struct File {
    #[serde(serialize_with = "shown")]
    path: PathBuf,
    #[serde(skip_serializing_if = "String::is_empty")]
    content: String,
}

/// The fixed object of `drainctl --json adopt`: a later version may add fields, none is ever renamed.
#[derive(Serialize)]
struct Adopted<'a> {
    /// Its full name.
    unit: &'a str,
    /// From now on it is; false: no longer.
    adopted: bool,
    /// Nothing was done: it would be so.
    dry_run: bool,
    /// Those that are written, with what stands in them, or taken away.
    files: &'a [File],
}

impl Adopted<'_> {
    /// One line, without the line's end.
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings always serialize")
    }
}

impl Adopt {
    /// What to print.
    pub fn run(&self, socket: &Path, json: bool) -> Result<String> {
        let unit = unit_name(&self.unit)?;
        match self.undo {
            true => self.undo(&unit, json),
            false => self.write(&unit, socket, json),
        }
    }

    fn write(&self, unit: &str, socket: &Path, json: bool) -> Result<String> {
        let files = self.files(unit, socket)?;
        self.look_for(unit)?;
        self.look_for_upstream(socket)?;
        let shown: Vec<_> =
            files.iter().map(|file| format!("# {}\n{}", file.path.display(), file.content)).collect();
        let shown = shown.join("\n");
        let done = Adopted { unit, adopted: true, dry_run: self.dry_run, files: &files };
        if self.dry_run {
            return Ok(if json { done.to_json() } else { shown.trim_end().to_string() });
        }
        files.iter().try_for_each(|file| is_ours_or_none(&file.path))?;
        if !json {
            super::say(&shown);
        } else if self.asks() {
            // What is asked about must be seen, and standard output is for programs.
            super::complain(&shown);
        }
        self.ask()?;
        files.iter().try_for_each(write)?;
        if self.root.is_none() {
            systemctl(["daemon-reload"])?;
            // A service that does not run starts it when it does.
            if is_active(unit) {
                systemctl(["start", "--", &companion(unit)])?;
            }
        }
        if json {
            return Ok(done.to_json());
        }
        Ok(format!("from now on {unit} is drained before it stops; to undo it: drainctl adopt {unit} --undo"))
    }

    /// Without its file the unit beside the service has no command left, so its stop drains nothing.
    fn undo(&self, unit: &str, json: bool) -> Result<String> {
        let paths = self.paths(unit);
        paths.iter().try_for_each(|path| is_ours_or_none(path))?;
        let there: Vec<_> = paths.iter().filter(|path| path.exists()).collect();
        if there.is_empty() {
            return Err(Error::new(
                Exit::Refused,
                format!("{unit} was not adopted: {} is not there", paths[0].display()),
            ));
        }
        let file = |path: &&PathBuf| File { path: (*path).clone(), content: String::new() };
        let files: Vec<File> = there.iter().map(file).collect();
        let done = Adopted { unit, adopted: false, dry_run: self.dry_run, files: &files };
        if self.dry_run && json {
            return Ok(done.to_json());
        }
        if self.dry_run {
            let names: Vec<_> = there.iter().map(|path| format!("would remove {}", path.display())).collect();
            return Ok(names.join("\n"));
        }
        for path in there {
            fs::remove_file(path).map_err(|e| Error::system(format!("removing {}", path.display()), e))?;
        }
        // Gone where it held nothing else.
        paths[0].parent().into_iter().for_each(|directory| _ = fs::remove_dir(directory));
        if self.root.is_none() {
            systemctl(["daemon-reload"])?;
            // That of a service which did not run since is not even loaded.
            if show(&companion(unit), "ActiveState")? != "inactive" {
                systemctl(["stop", "--", &companion(unit)])?;
            }
        }
        Ok(if json { done.to_json() } else { format!("{unit} is no longer drained before it stops") })
    }

    fn paths(&self, unit: &str) -> [PathBuf; 2] {
        let units = self.root.as_deref().unwrap_or(Path::new("/")).join(UNITS);
        [units.join(format!("{unit}.d")).join("50-drained.conf"), units.join(companion(unit))]
    }

    fn files(&self, unit: &str, socket: &Path) -> Result<[File; 2]> {
        let [drop_in, beside] = self.paths(unit);
        let (Some(proxy), Some(upstream)) = (&self.proxy, &self.upstream) else {
            return Err(Error::new(Exit::Usage, "--proxy and --upstream are missing"));
        };
        let program = std::env::current_exe().map_err(|e| Error::system("finding drainctl itself", e))?;
        let socket =
            std::path::absolute(socket).map_err(|e| Error::system("finding the control socket", e))?;
        let mut words = vec![program.as_os_str(), OsStr::new("--socket"), socket.as_os_str()];
        if socket == Path::new(control::DEFAULT_SOCKET) {
            words.truncate(1);
        }
        let ctl = words.into_iter().map(quoted).collect::<Result<Vec<_>>>()?.join(" ");
        let (proxy, upstream) = (quoted(OsStr::new(proxy))?, quoted(OsStr::new(upstream))?);
        let (timeout, most) = (render_duration(self.timeout), (self.timeout + GRACE).as_secs());
        let (name, beside_name) = (in_text(unit), in_text(&companion(unit)));
        let drop_in = File {
            path: drop_in,
            content: format!(
                "{MARK}: drains the service's connections before it is stopped.\n\
                 # To take it away: drainctl adopt {unit} --undo\n\
                 [Unit]\n\
                 Wants={beside_name}\n"
            ),
        };
        let beside = File {
            path: beside,
            content: format!(
                "{MARK}: goes with {unit}, started after it and stopped before it.\n\
                 # To take it away: drainctl adopt {unit} --undo\n\
                 [Unit]\n\
                 Description=Drains the connections of {name} before it stops\n\
                 Documentation=man:drainctl(1)\n\
                 PartOf={name}\n\
                 After={name}\n\
                 # However often the service is restarted, it is put back.\n\
                 StartLimitIntervalSec=0\n\
                 \n\
                 [Service]\n\
                 Type=oneshot\n\
                 RemainAfterExit=yes\n\
                 # \"-\": whatever drained says, the service starts and stops.\n\
                 ExecStart=-{ctl} resume {proxy} --upstream {upstream}\n\
                 ExecStop=-{ctl} drain {proxy} --upstream {upstream} --wait --timeout {timeout}\n\
                 TimeoutStopSec={most}s\n"
            ),
        };
        Ok([drop_in, beside])
    }

    /// # Errors
    /// systemd knows no such service.
    fn look_for(&self, unit: &str) -> Result<()> {
        if self.root.is_some() {
            return Ok(());
        }
        let state = show(unit, "LoadState")?;
        match state.as_str() {
            "loaded" => Ok(()),
            "not-found" => {
                let text =
                    format!("there is no unit {unit}: systemctl list-unit-files shows those that there are");
                Err(Error::new(Exit::Refused, text))
            }
            other => {
                Err(Error::new(Exit::Refused, format!("the unit {unit} is {other}: systemctl status {unit}")))
            }
        }
    }

    /// # Errors
    /// The daemon knows no such proxy or upstream: nobody would see it later, for nothing that it says may
    /// fail the service.
    fn look_for_upstream(&self, socket: &Path) -> Result<()> {
        let call =
            Call::Progress { proxy: self.proxy.clone().unwrap_or_default(), upstream: self.upstream.clone() };
        match client::call::<ByHand>(socket, &call) {
            Err(error) if error.exit() == Exit::Refused => Err(error),
            Err(_) if self.root.is_none() => {
                super::complain(
                    "drained does not answer, so it is not checked whether it knows this upstream",
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn asks(&self) -> bool {
        !self.yes && self.root.is_none() && io::stdin().is_terminal()
    }

    fn ask(&self) -> Result<()> {
        if !self.asks() {
            return Ok(());
        }
        let mut stderr = io::stderr();
        let _ = write!(stderr, "Write these files? [y/N] ").and_then(|()| stderr.flush());
        let mut answer = String::new();
        // No answer is no.
        let _ = io::stdin().lock().read_line(&mut answer);
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Error::new(Exit::Refused, "nothing was written")),
        }
    }
}

fn shown<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

/// The unit beside a service.
fn companion(unit: &str) -> String {
    format!("drained-before-{unit}")
}

/// The full name of a service.
///
/// # Errors
/// It is none that a service can have, see systemd.unit(5).
fn unit_name(text: &str) -> Result<String> {
    let wrong = |why: String| Err(Error::new(Exit::Usage, why));
    const OTHERS: [&str; 10] =
        ["socket", "timer", "target", "mount", "path", "slice", "scope", "device", "swap", "automount"];
    let kind = text.rsplit_once('.').map(|(_, kind)| kind);
    if let Some(kind) = kind.filter(|kind| OTHERS.contains(kind)) {
        return wrong(format!("{text} is a {kind}: only a service can be adopted"));
    }
    let stem = text.strip_suffix(".service").unwrap_or(text);
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if stem.is_empty()
        || stem.starts_with(['-', '.', '@'])
        || stem.len() > LONGEST_NAME
        || !stem.chars().all(fits)
    {
        return wrong(format!("{text:?} is no name of a service: write one such as myapp.service"));
    }
    if stem == "drained" {
        return wrong("drained itself cannot be adopted: it hands its connections over".to_string());
    }
    if stem.ends_with('@') {
        return wrong(format!("{stem}.service is a template: name an instance, such as {stem}1.service"));
    }
    Ok(format!("{stem}.service"))
}

/// A name in a setting other than a command line.
fn in_text(name: &str) -> String {
    name.replace('%', "%%")
}

/// A word of a command line, see "COMMAND LINES" in systemd.service(5).
///
/// # Errors
/// It has characters that no configuration of drained has.
fn quoted(word: &OsStr) -> Result<String> {
    let text = word.to_str().filter(|text| !text.chars().any(char::is_control));
    let Some(text) = text else {
        return Err(Error::new(Exit::Usage, format!("{word:?} cannot stand in a unit file")));
    };
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let plain =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._:-@[]%".contains(c));
    Ok(if plain { escaped } else { format!("\"{escaped}\"") })
}

/// # Errors
/// Somebody else's file stands there.
fn is_ours_or_none(path: &Path) -> Result<()> {
    match fs::read(path) {
        Ok(content) if content.starts_with(MARK.as_bytes()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => {
            let text = format!("{} was not written by drainctl adopt: it is left alone", path.display());
            Err(Error::new(Exit::Refused, text))
        }
        Err(e) => Err(Error::system(format!("reading {}", path.display()), e)),
    }
}

fn write(file: &File) -> Result<()> {
    let failed = |e| Error::system(format!("writing {}", file.path.display()), e);
    file.path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    let mut new = file.path.clone().into_os_string();
    // Not .conf and not .service, so that systemd passes over it.
    new.push(".new");
    fs::write(&new, &file.content).and_then(|()| fs::rename(&new, &file.path)).map_err(failed)
}

fn is_active(unit: &str) -> bool {
    show(unit, "ActiveState")
        .is_ok_and(|state| matches!(state.as_str(), "active" | "reloading" | "activating"))
}

fn show(unit: &str, property: &str) -> Result<String> {
    systemctl(["show", "--value", "--property", property, "--", unit])
}

fn systemctl<const N: usize>(words: [&str; N]) -> Result<String> {
    let failed = |why: String| Error::new(Exit::System, format!("systemctl {}: {why}", words.join(" ")));
    let output = Command::new("systemctl").args(words).output().map_err(|e| failed(e.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_string()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_services() {
        for (text, name) in [
            ("myapp", "myapp.service"),
            ("myapp.service", "myapp.service"),
            ("app@1", "app@1.service"),
            ("a.b", "a.b.service"),
            ("dev-x\\x2dy", "dev-x\\x2dy.service"),
        ] {
            assert_eq!(unit_name(text).unwrap(), name);
        }
        for (text, why) in [
            ("", "no name of a service"),
            ("../x", "no name of a service"),
            ("a b", "no name of a service"),
            ("-x", "no name of a service"),
            ("x.socket", "only a service"),
            ("app@.service", "name an instance, such as app@1.service"),
        ] {
            let error = unit_name(text).unwrap_err();
            assert!(error.to_string().contains(why) && error.exit() == Exit::Usage, "{error}");
        }
    }

    #[test]
    fn words_stay_words() {
        for (word, text) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("[fe80::1%eth0]:80", "[fe80::1%%eth0]:80"),
            ("unix:/run/a b", "\"unix:/run/a b\""),
            ("a\"$HOME\\", "\"a\\\"$$HOME\\\\\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(OsStr::new(word)).unwrap(), text);
        }
        assert!(quoted(OsStr::new("a\nExecStart=")).is_err());
    }
}
