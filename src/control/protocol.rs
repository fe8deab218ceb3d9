//! The words between drainctl and the daemon: a request a line, a reply a line, both JSON.
//!
//! ```text
//! {"version":1,"call":"status"}
//! {"version":1,"ok":{...}}        or        {"version":1,"error":"..."}
//! ```
//!
//! The version changes when an old reader would misread a new line; added fields do not change it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::connections::Query;
use crate::config::render_duration;

/// The version of the protocol that this program speaks.
pub const VERSION: u32 = 1;

/// The longest request in bytes, its line's end included.
pub const LONGEST_REQUEST: usize = 64 << 10;

/// The longest reply that a client takes, in bytes.
pub const LONGEST_REPLY: usize = 16 << 20;

/// The longest time that a drain or a hold may be given, in milliseconds: 24 hours.
pub const LONGEST_TIMEOUT: u64 = 24 * 60 * 60 * 1_000;

/// What the daemon can be asked. A call's arguments are fields beside its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Call {
    /// How it is.
    Status,
    /// Which connections there are, answered with a [`Listing`](super::connections::Listing).
    Connections(Query),
    /// Have an upstream, or all of a proxy, take no new connections, and drain those that they have.
    Drain {
        /// Its name.
        proxy: String,
        /// As the configuration writes it; null or left out: all.
        upstream: Option<String>,
        /// Until connections are cut, in milliseconds, up to 24 h; null or left out: the proxy's own deadline.
        timeout_ms: Option<u64>,
    },
    /// Have drained upstreams take connections again, and end a hold.
    Resume {
        /// Its name.
        proxy: String,
        /// As the configuration writes it; null or left out: all, and a hold by hand ends.
        upstream: Option<String>,
    },
    /// Have new clients of a proxy wait.
    Hold {
        /// Its name.
        proxy: String,
        /// For how long, in milliseconds, up to 24 h; null or left out: until it is resumed.
        timeout_ms: Option<u64>,
    },
    /// How far a drain or a resumption has come.
    Progress {
        /// Its name.
        proxy: String,
        /// As the configuration writes it; null or left out: all.
        upstream: Option<String>,
    },
    /// Read the configuration anew.
    Reload,
}

#[derive(Serialize)]
struct Request<'a> {
    version: u32,
    #[serde(flatten)]
    call: &'a Call,
}

#[derive(Serialize, Deserialize)]
struct Reply<T> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    ok: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    error: Option<String>,
}

fn none<T>() -> Option<T> {
    None
}

impl Call {
    /// The words of all calls.
    const WORDS: [&str; 7] = ["status", "connections", "reload", "drain", "resume", "hold", "progress"];

    /// Its word.
    pub fn verb(&self) -> &'static str {
        match self {
            Call::Status => "status",
            Call::Connections(_) => "connections",
            Call::Reload => "reload",
            Call::Drain { .. } => "drain",
            Call::Resume { .. } => "resume",
            Call::Hold { .. } => "hold",
            Call::Progress { .. } => "progress",
        }
    }

    /// Whether it is for root and the daemon's own user alone.
    pub fn changes(&self) -> bool {
        match self {
            Call::Drain { .. } | Call::Resume { .. } | Call::Hold { .. } | Call::Reload => true,
            Call::Status | Call::Connections(_) | Call::Progress { .. } => false,
        }
    }

    /// Its word, what it is about and for how long, for the journal: names of strangers are shortened and quoted.
    pub fn words(&self) -> String {
        let about = match self {
            Call::Status | Call::Connections(_) | Call::Reload => vec![],
            Call::Drain { proxy, upstream, .. }
            | Call::Resume { proxy, upstream }
            | Call::Progress { proxy, upstream } => {
                [Some(proxy), upstream.as_ref()].into_iter().flatten().collect()
            }
            Call::Hold { proxy, .. } => vec![proxy],
        };
        let mut words = self.verb().to_string();
        for name in about {
            let plain = name.len() <= 128 && name.chars().all(|c| c.is_ascii_graphic());
            match plain {
                true => words.push_str(&format!(" {name}")),
                false => words.push_str(&format!(" {:?}", name.chars().take(128).collect::<String>())),
            }
        }
        if let Some(ms) = self.timeout() {
            words.push_str(&format!(" --timeout {}", render_duration(Duration::from_millis(ms))));
        }
        words
    }

    /// For how long, in milliseconds, if it says so.
    fn timeout(&self) -> Option<u64> {
        match self {
            Call::Drain { timeout_ms, .. } | Call::Hold { timeout_ms, .. } => *timeout_ms,
            _ => None,
        }
    }

    /// Whether it asks for what can be had, whatever is configured.
    ///
    /// # Errors
    /// Says what is too much.
    pub fn check(&self) -> Result<(), String> {
        match self.timeout().filter(|ms| *ms > LONGEST_TIMEOUT) {
            Some(ms) => Err(format!("timeout_ms is {ms}: it may be {LONGEST_TIMEOUT} at the most, 24 hours")),
            None => Ok(()),
        }
    }

    /// The request's line, its end included.
    pub fn to_line(&self) -> Vec<u8> {
        line(&Request { version: VERSION, call: self })
    }

    /// Reads a request; the error is what the client is told.
    pub fn from_line(text: &[u8]) -> Result<Call, String> {
        let request: Value =
            serde_json::from_slice(text).map_err(|_| "the request is not a line of JSON".to_string())?;
        let version = request.get("version").and_then(Value::as_u64);
        let ours = env!("CARGO_PKG_VERSION");
        if version != Some(u64::from(VERSION)) {
            let asked = version.map_or("without a version".to_string(), |v| format!("of version {v}"));
            return Err(format!("the request is {asked}: drained {ours} speaks version {VERSION}"));
        }
        let word = request.get("call").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !Call::WORDS.contains(&word.as_str()) {
            let known = Call::WORDS.join(", ");
            return Err(format!("unknown call {word:?}: drained {ours} knows {known}"));
        }
        serde_json::from_value(request).map_err(|e| format!("the call {word:?}: {e}"))
    }
}

/// The line of a reply that went well.
pub fn ok_line(answer: &impl Serialize) -> Vec<u8> {
    line(&Reply { version: VERSION, ok: Some(answer), error: None })
}

/// The line of a reply that did not.
pub fn error_line(message: &str) -> Vec<u8> {
    line(&Reply::<()> { version: VERSION, ok: None, error: Some(message.to_string()) })
}

/// Why a reply has no answer, for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The daemon says no.
    Refused(String),
    /// It is none that this program understands.
    Unreadable(String),
}

/// Reads a reply.
///
/// # Errors
/// It is no answer, or none that can be read.
pub fn answer_from_line<T: DeserializeOwned>(text: &[u8]) -> Result<T, NoAnswer> {
    let unreadable = |e| NoAnswer::Unreadable(format!("the answer cannot be read: {e}"));
    let reply: Reply<T> = serde_json::from_slice(text).map_err(unreadable)?;
    match reply {
        Reply { error: Some(message), .. } => Err(NoAnswer::Refused(message)),
        Reply { ok: Some(answer), .. } => Ok(answer),
        Reply { .. } => Err(NoAnswer::Unreadable("the answer is empty".to_string())),
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line =
        serde_json::to_vec(value).expect("strings, numbers and maps with string keys always serialize");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_fixed_line() {
        assert_eq!(Call::Status.to_line(), b"{\"version\":1,\"call\":\"status\"}\n");
        assert_eq!(Call::from_line(&Call::Status.to_line()), Ok(Call::Status));
        assert_eq!(Call::from_line(br#"{"call":"status","version":1,"new":true}"#), Ok(Call::Status));
        assert_eq!(Call::Reload.to_line(), b"{\"version\":1,\"call\":\"reload\"}\n");
        assert_eq!(Call::from_line(&Call::Reload.to_line()), Ok(Call::Reload));
    }

    #[test]
    fn arguments_that_are_left_out_are_none() {
        let drain = Call::from_line(br#"{"version":1,"call":"drain","proxy":"web"}"#).expect("a drain");
        assert_eq!(drain, Call::Drain { proxy: "web".to_string(), upstream: None, timeout_ms: None });
        let missing = Call::from_line(br#"{"version":1,"call":"drain"}"#).expect_err("no proxy");
        assert!(missing.contains("missing field `proxy`"), "{missing}");
        for word in Call::WORDS {
            let line = format!(r#"{{"version":1,"call":"{word}","proxy":"web"}}"#);
            assert_eq!(Call::from_line(line.as_bytes()).expect("a call").verb(), word);
        }
    }

    #[test]
    fn names_of_strangers_go_quoted_and_short_into_the_journal() {
        let hold = |proxy: &str| Call::Hold { proxy: proxy.to_string(), timeout_ms: None }.words();
        assert_eq!(hold("web"), "hold web");
        let drain = Call::Drain { proxy: "web".into(), upstream: None, timeout_ms: Some(90_000) };
        assert_eq!(drain.words(), "drain web --timeout 90s");
        assert!(drain.check().is_ok());
        let hold = |ms| Call::Hold { proxy: "web".into(), timeout_ms: Some(ms) };
        assert!(hold(LONGEST_TIMEOUT).check().is_ok());
        let refused = hold(LONGEST_TIMEOUT + 1).check().unwrap_err();
        assert_eq!(refused, "timeout_ms is 86400001: it may be 86400000 at the most, 24 hours");
        let hold = |proxy: &str| Call::Hold { proxy: proxy.to_string(), timeout_ms: None }.words();
        assert_eq!(hold("a\nb c"), r#"hold "a\nb c""#);
        assert!(hold(&"x".repeat(60_000)).len() < 200);
    }

    #[test]
    fn what_is_no_request_is_told() {
        for (line, message) in [
            (&b""[..], "not a line of JSON"),
            (b"\xff", "not a line of JSON"),
            (b"GET / HTTP/1.1", "not a line of JSON"),
            (b"[]", "without a version"),
            (br#"{"version":2,"call":"status"}"#, "of version 2"),
            (br#"{"version":1,"call":"explode"}"#, "unknown call \"explode\""),
            (br#"{"version":1}"#, "unknown call \"\""),
        ] {
            let error = Call::from_line(line).expect_err(message);
            assert!(error.contains(message), "{error}");
        }
        assert!(Call::from_line("[".repeat(60_000).as_bytes()).is_err());
    }

    #[test]
    fn an_error_reply_is_read_as_one() {
        assert_eq!(answer_from_line::<()>(&error_line("no")), Err(NoAnswer::Refused("no".to_string())));
        for (line, message) in
            [(&br#"{"version":1}"#[..], "the answer is empty"), (b"junk", "cannot be read")]
        {
            let Err(NoAnswer::Unreadable(text)) = answer_from_line::<()>(line) else { panic!("{message}") };
            assert!(text.contains(message), "{text}");
        }
    }
}
