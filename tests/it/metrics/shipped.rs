//! The dashboard, the alert rules and the documentation use names that the daemon tells.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use drained::daemon::metrics::NAMES;

use super::{address, get, proxy, setup};
use crate::support::drained::pair;
use crate::support::peers::Listener;

const DASHBOARD: &str = "packaging/grafana/drained.json";
const RULES: &str = "packaging/prometheus/drained.rules.yml";
const RULE_TESTS: &str = "tests/fixtures/drained.rules.test.yml";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every word that begins with drained_, as the name of its metric: without what a histogram adds.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let words = words.filter(|word| word.starts_with("drained_"));
    let known = |word: &&str| NAMES.contains(word);
    let plain = |word: &'_ str| {
        let stripped =
            ["_bucket", "_sum", "_count"].iter().filter_map(|end| word.strip_suffix(end)).find(known);
        stripped.unwrap_or(word).to_owned()
    };
    words.map(plain).collect()
}

#[test]
fn dashboard_and_rules_name_only_what_there_is() {
    let known: BTreeSet<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    for file in [DASHBOARD, RULES] {
        let unknown: Vec<_> = names(&read(file)).difference(&known).cloned().collect();
        assert_eq!(unknown, [""; 0], "{file}");
        assert!(names(&read(file)).len() >= 5, "{file} uses few");
    }
    serde_json::from_str::<serde_json::Value>(&read(DASHBOARD)).expect("the dashboard is JSON");
}

#[test]
fn the_documentation_has_a_row_for_each_metric_and_for_no_other() {
    let doc = read("docs/metrics.md");
    let rows: Vec<&str> = doc.lines().filter_map(|line| line.strip_prefix("| `drained_")).collect();
    let documented: Vec<String> =
        rows.iter().map(|row| format!("drained_{}", row.split('`').next().unwrap_or_default())).collect();
    assert_eq!(documented, NAMES);
}

#[test]
fn the_packages_have_dashboard_and_rules() {
    let manifest = read("Cargo.toml");
    for file in [DASHBOARD, RULES] {
        assert_eq!(manifest.matches(&format!("\"{file}\"")).count(), 2, "{file} in the deb and in the rpm");
    }
}

/// Prometheus's own judgement, where it is installed.
#[test]
fn promtool_finds_nothing_to_say() {
    let promtool = |arguments: &[&str], input: &str| {
        let mut command = Command::new("promtool");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().ok()?;
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Some((output.status.success(), said.into_owned()))
    };
    let Some((checked, said)) = promtool(&["check", "rules", path(RULES).to_str().unwrap()], "") else {
        crate::support::left_out("no promtool on this machine");
        return;
    };
    assert!(checked, "{said}");
    // Each alert with figures for which it is to fire, and with some for which it is not.
    let tested = promtool(&["test", "rules", path(RULE_TESTS).to_str().unwrap()], "");
    assert!(tested.as_ref().is_some_and(|(passed, _)| *passed), "{tested:?}");
    let alerts = |text: &str, key: &str| -> BTreeSet<String> {
        let names = text.split(key).skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
        names.map(|name| name.unwrap_or_default().to_owned()).collect()
    };
    let tests = read(RULE_TESTS);
    for key in ["alertname: ", "alertname=\""] {
        assert_eq!(alerts(&read(RULES), "alert: "), alerts(&tests, key), "an alert is not tested");
    }
    let upstream = Listener::new();
    let drained = setup(&proxy(&[&upstream.address], "")).start();
    drop(pair(&drained, &upstream));
    let (_, text) = get(&address(&drained), "/metrics");
    assert_eq!(promtool(&["check", "metrics"], &text), Some((true, String::new())));
    drained.stop();
}
