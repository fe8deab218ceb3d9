//! What `drainctl reload` is told: the fixed object of `drainctl --json reload`.
//!
//! Field names are an interface; a later version may add fields, none is ever renamed.

use serde::{Deserialize, Serialize};

/// The whole object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// False: the configuration stays as it was, for what [`errors`](Self::errors) say.
    pub reloaded: bool,
    /// Proxies that are new.
    pub added: Vec<String>,
    /// Proxies that are there no longer.
    pub removed: Vec<String>,
    /// Proxies that go on with other settings.
    pub changed: Vec<String>,
    /// Proxies that go on as before.
    pub kept: Vec<String>,
    /// Keys that are others and take effect at the next restart, as `table.key`.
    pub needs_restart: Vec<String>,
    /// Why it was not reloaded, a line each.
    pub errors: Vec<String>,
    /// The exit code of drainctl: 0, 78 for a wrong configuration, 71 where the system refused, 69 where it is
    /// not the time for it.
    pub exit: u8,
}

impl Reload {
    /// One line, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }

    /// For people: what has changed, and a line for each key that needs a restart.
    pub fn to_text(&self) -> String {
        let lists = [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)];
        let mut parts: Vec<String> = lists
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        if parts.is_empty() {
            parts.push("no proxy has changed".to_owned());
        }
        let mut text = format!("Reloaded: {}", parts.join("; "));
        for key in &self.needs_restart {
            text += &format!("\n{}", needs_restart(key));
        }
        text
    }
}

/// What is said of a key that was changed and cannot be without a restart.
pub fn needs_restart(key: &str) -> String {
    format!("{key} has changed: it takes effect at the next restart, until then it stays as it was")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_the_fixed_interface() {
        let reload = Reload { reloaded: true, added: vec!["web".to_owned()], ..Reload::default() };
        let json = concat!(
            r#"{"reloaded":true,"added":["web"],"removed":[],"changed":[],"kept":[],"#,
            r#""needs_restart":[],"errors":[],"exit":0}"#
        );
        assert_eq!(reload.to_json(), json);
        assert_eq!(serde_json::from_str::<Reload>(json).expect("reads what it writes"), reload);
    }

    #[test]
    fn people_are_told_what_has_changed() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut reload = Reload { reloaded: true, kept: list(&["a"]), ..Reload::default() };
        assert_eq!(reload.to_text(), "Reloaded: no proxy has changed");
        (reload.added, reload.removed) = (list(&["b", "c"]), list(&["d"]));
        reload.needs_restart = list(&["daemon.workers"]);
        let text = reload.to_text();
        let (first, second) = text.split_once('\n').expect("two lines");
        assert_eq!(first, "Reloaded: added b, c; removed d");
        assert!(second.starts_with("daemon.workers has changed"));
    }
}
