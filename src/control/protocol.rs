//! The words between drainctl and the daemon: a request a line, a reply a line, both JSON.
//!
//! ```text
//! {"version":1,"call":"status"}
//! {"version":1,"ok":{...}}        or        {"version":1,"error":"..."}
//! ```
//!
//! The version changes when an old reader would misread a new line; added fields do not change it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the protocol that this program speaks.
pub const VERSION: u32 = 1;

/// The longest request in bytes, its line's end included.
pub const LONGEST_REQUEST: usize = 64 << 10;

/// The longest reply that a client takes, in bytes.
pub const LONGEST_REPLY: usize = 16 << 20;

/// What the daemon can be asked. A call's arguments are fields beside its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Call {
    /// How it is.
    Status,
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
    const WORDS: [&str; 2] = ["status", "reload"];

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

/// Reads a reply; the error is for the user.
pub fn answer_from_line<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let reply: Reply<T> =
        serde_json::from_slice(text).map_err(|e| format!("the answer cannot be read: {e}"))?;
    match reply {
        Reply { error: Some(message), .. } => Err(message),
        Reply { ok: Some(answer), .. } => Ok(answer),
        Reply { .. } => Err("the answer is empty".to_string()),
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
        assert_eq!(answer_from_line::<()>(&error_line("no")), Err("no".to_string()));
        assert_eq!(answer_from_line::<()>(br#"{"version":1}"#), Err("the answer is empty".to_string()));
        assert!(answer_from_line::<()>(b"junk").is_err_and(|e| e.contains("cannot be read")));
    }
}
