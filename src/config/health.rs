//! The key `check` of a proxy: whether and how its upstreams are looked at.

use std::time::Duration;

use super::document::Table;
use super::duration;
use super::place::Report;
use super::{Check, HttpCheck};

pub(super) const CHECK_KEYS: &[&str] = &["interval", "timeout", "rise", "fall", "http", "host"];

const INTERVAL: Duration = Duration::from_secs(5);
/// How often one may look at an upstream at the most.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Where there is no timeout, unless the interval is shorter.
const TIMEOUT: Duration = Duration::from_secs(2);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
const RISE: u32 = 2;
const FALL: u32 = 3;
const MOST_IN_A_ROW: u32 = 100;
/// The longest path and the longest host in bytes.
const LONGEST_TEXT: usize = 1024;

pub(super) fn check(table: &Table<'_>, report: &mut Report) -> Check {
    table.check_keys(CHECK_KEYS, &[], report);
    let interval = table.duration("interval", SHORTEST_INTERVAL, report).map_or(INTERVAL, |at| at.value);
    let timeout = table.duration("timeout", SHORTEST_TIMEOUT, report);
    if let Some(at) = timeout.as_ref().filter(|at| at.value > interval) {
        let (timeout, interval) = (duration::render(at.value), duration::render(interval));
        let text = format!(
            "timeout: {timeout:?} is longer than the interval {interval:?}: a check ends before the next begins"
        );
        report.error(&at.place, text);
    }
    let in_a_row = |key, default, report: &mut Report| {
        table.integer(key, 1..=MOST_IN_A_ROW, report).map_or(default, |at| at.value)
    };
    let (rise, fall) = (in_a_row("rise", RISE, report), in_a_row("fall", FALL, report));
    let path = text(table, "http", report, path);
    let host = text(table, "host", report, host);
    if let Some((place, _)) = host.as_ref().filter(|_| !table.has("http")) {
        report.error(place, "host: it is for HTTP alone: write http = \"/PATH\" beside it");
    }
    let http = path.map(|(_, path)| HttpCheck { path, host: host.map(|(_, host)| host) });
    Check { interval, timeout: timeout.map_or(TIMEOUT.min(interval), |at| at.value), rise, fall, http }
}

/// A string that `judge` finds nothing wrong with, and its place.
fn text(
    table: &Table<'_>,
    key: &str,
    report: &mut Report,
    judge: impl Fn(&str) -> Result<(), String>,
) -> Option<(super::place::Place, String)> {
    let at = table.string(key, report)?;
    match judge(at.value) {
        Ok(()) => Some((at.place, at.value.to_owned())),
        Err(message) => {
            report.error(&at.place, format!("{key}: {message}"));
            None
        }
    }
}

fn path(text: &str) -> Result<(), String> {
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        return Err(format!("{text:?} is a URL: write the path alone, {path:?}"));
    }
    if !text.starts_with('/') {
        return Err(format!("{text:?} is not a path: write it from / on, as in \"/health\""));
    }
    printable(text, "write %XX for it")
}

fn host(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the name is empty: write a host as in \"app.example.org\"".to_owned());
    }
    if text.contains('/') {
        return Err(format!("{text:?} has a slash in it: write a host alone, as in \"app.example.org\""));
    }
    printable(text, "write a host alone, as in \"app.example.org\"")
}

/// What may stand in the head of a request as it is; `right` is what to write where it may not.
fn printable(text: &str, right: &str) -> Result<(), String> {
    if text.len() > LONGEST_TEXT {
        return Err(format!("it has {} bytes: {LONGEST_TEXT} at most", text.len()));
    }
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(bad) => {
            Err(format!("{text:?} has {bad:?} in it: printable ASCII without blanks is possible, {right}"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft;
    use super::super::files::ConfigFile;
    use super::super::{Config, Errors};
    use super::*;

    const WEB: &str = "[proxy.web]\nlisten = \"127.0.0.1:80\"\nupstream = \"127.0.0.1:8000\"\n";

    fn parse(text: &str) -> Result<Config, Errors> {
        let file = ConfigFile { path: "drained.toml".into(), content: Ok(text.as_bytes().to_vec()) };
        draft::build(&[file])
    }

    fn read(check: &str) -> Result<Check, Vec<String>> {
        match parse(&format!("{WEB}check = {check}\n")) {
            Ok(config) => Ok(config.proxies[0].check.clone().expect("there is one")),
            Err(Errors(lines)) => Err(lines),
        }
    }

    #[test]
    fn a_check_has_defaults() {
        let s = Duration::from_secs;
        let default = Check { interval: s(5), timeout: s(2), rise: 2, fall: 3, http: None };
        assert_eq!(read("{}"), Ok(default.clone()));
        assert_eq!(read("{ interval = \"1s\" }"), Ok(Check { interval: s(1), timeout: s(1), ..default }));
        let whole = r#"{ http = "/health?full=1", host = "app.example.org:80", interval = "1m", timeout = "10s", rise = 1, fall = 100 }"#;
        let http =
            HttpCheck { path: "/health?full=1".to_owned(), host: Some("app.example.org:80".to_owned()) };
        assert_eq!(
            read(whole),
            Ok(Check { interval: s(60), timeout: s(10), rise: 1, fall: 100, http: Some(http) })
        );
        assert_eq!(parse(WEB).expect("valid").proxies[0].check, None);
    }

    #[test]
    fn each_mistake_is_told_once_with_what_is_right() {
        let long = format!("{{ http = \"/{}\" }}", "x".repeat(1024));
        for (check, right) in [
            ("\"5s\"", "check is a string: write a table, check = { ... }"),
            ("{ every = \"5s\" }", "unknown key \"every\" in check of [proxy.web], known are: interval"),
            ("{ intervall = \"5s\" }", "did you mean \"interval\"?"),
            ("{ interval = 5 }", "write \"5s\""),
            ("{ interval = \"10ms\" }", "at least \"100ms\""),
            ("{ interval = \"1s\", timeout = \"2s\" }", "\"2s\" is longer than the interval \"1s\""),
            ("{ timeout = \"0s\" }", "at least \"1ms\""),
            ("{ rise = 0 }", "rise is 0: 1 to 100 is possible"),
            ("{ fall = 101 }", "fall is 101: 1 to 100 is possible"),
            ("{ http = true }", "http is true or false: write a string"),
            ("{ http = \"health\" }", "as in \"/health\""),
            ("{ http = \"\" }", "as in \"/health\""),
            ("{ http = \"http://app.example.org/health\" }", "write the path alone, \"/health\""),
            ("{ http = \"/he alth\" }", "write %XX"),
            ("{ http = \"/a\\r\\nb: c\" }", "write %XX"),
            (&long, "1024 at most"),
            ("{ host = \"app.example.org\" }", "write http = \"/PATH\" beside it"),
            ("{ http = \"/\", host = \"\" }", "the name is empty"),
            ("{ http = \"/\", host = \"http://a\" }", "write a host alone"),
            ("{ http = \"/\", host = \"a b\" }", "without blanks is possible, write a host alone"),
            (
                "true",
                "check is true or false: write a table, check = { ... }, or check = {} for the defaults",
            ),
            ("false", "check = { ... }, or leave check out"),
        ] {
            let lines = read(check).expect_err(check);
            assert!(lines.len() == 1 && lines[0].contains(right), "{check}: {lines:#?}");
            assert!(lines[0].starts_with("drained.toml:4:"), "{lines:?}");
        }
    }

    #[test]
    fn each_key_is_in_the_shipped_configuration_and_in_the_man_page() {
        let shipped = include_str!("../../packaging/drained.toml");
        let (_, shown) = shipped.split_once("# Look at the upstreams").expect("an example");
        let page = include_str!("../../packaging/man/drained.toml.5");
        for key in CHECK_KEYS {
            assert!(shown.contains(&format!(" {key} = ")), "{key} in drained.toml");
            assert!(page.lines().any(|line| line == format!(".I {key}")), "{key} in drained.toml(5)");
        }
    }

    #[test]
    fn metrics_have_an_address_of_their_own() {
        let daemon = |lines: &str| format!("[daemon]\n{lines}\n{WEB}");
        for (lines, right) in [
            ("metrics = 9130", "metrics is a whole number: write a string"),
            ("metrics = \"9130\"", "0.0.0.0:9130"),
            ("metrics = \"localhost:9130\"", "is a host name"),
            ("metrics = \"systemd:web\"", "for example \"127.0.0.1:9130\""),
            (
                "metrics = \"0.0.0.0:80\"",
                "0.0.0.0:80 overlaps the listener 127.0.0.1:80 of web, at drained.toml:4",
            ),
            (
                "control = \"/run/a\"\nmetrics = \"unix:/run/a\"",
                "is the control socket, set at drained.toml:2",
            ),
            (
                "metrics = \"unix:/run/drained/control.sock\"",
                "is the control socket of drained.service, unless control is set to another",
            ),
        ] {
            let Errors(errors) = parse(&daemon(lines)).expect_err(lines);
            assert!(errors.len() == 1 && errors[0].contains(right), "{lines}: {errors:#?}");
        }
        for address in ["127.0.0.1:9130", "[::1]:0", "unix:/run/drained/metrics.sock", "unix:@drained"] {
            let config = parse(&daemon(&format!("metrics = \"{address}\""))).expect(address);
            assert_eq!(config.daemon.metrics.map(|a| a.to_string()), Some(address.to_owned()));
        }
    }
}
