//! The words between drainctl and the daemon: a request a line, a reply a line, both JSON.
//!
//! ```text
//! {"version":1,"call":"status"}
//! {"version":1,"ok":{...}}        or        {"version":1,"error":"..."}
//! ```
//!
//! The version changes when an old reader would misread a new line; added fields do not change it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Status;

/// The version of the protocol that this program speaks.
pub const VERSION: u32 = 1;

/// The longest request in bytes, its line's end included.
pub const LONGEST_REQUEST: usize = 64 << 10;

/// The longest reply that a client takes, in bytes.
pub const LONGEST_REPLY: usize = 16 << 20;

/// What the daemon can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// How it is.
    Status,
}

#[derive(Serialize)]
struct Request<'a> {
    version: u32,
    call: &'a str,
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
    const ALL: [Call; 1] = [Call::Status];

    /// As in the request.
    pub fn word(self) -> &'static str {
        match self {
            Call::Status => "status",
        }
    }

    /// The request's line, its end included.
    pub fn to_line(self) -> Vec<u8> {
        line(&Request { version: VERSION, call: self.word() })
    }

    /// Reads a request; the error is what the client is told.
    pub fn from_line(text: &[u8]) -> Result<Call, String> {
        let request: Value =
            serde_json::from_slice(text).map_err(|_| "the request is not a line of JSON".to_string())?;
        let version = request.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            let asked = version.map_or("without a version".to_string(), |v| format!("of version {v}"));
            let crate_version = env!("CARGO_PKG_VERSION");
            return Err(format!("the request is {asked}: drained {crate_version} speaks version {VERSION}"));
        }
        let word = request.get("call").and_then(Value::as_str).unwrap_or_default();
        Call::ALL.into_iter().find(|call| call.word() == word).ok_or_else(|| {
            let known: Vec<_> = Call::ALL.iter().map(|call| call.word()).collect();
            format!("unknown call {word:?}: drained {} knows {}", env!("CARGO_PKG_VERSION"), known.join(", "))
        })
    }
}

/// The line of a reply that went well.
pub fn ok_line(status: &Status) -> Vec<u8> {
    line(&Reply { version: VERSION, ok: Some(status), error: None })
}

/// The line of a reply that did not.
pub fn error_line(message: &str) -> Vec<u8> {
    line(&Reply::<Status> { version: VERSION, ok: None, error: Some(message.to_string()) })
}

/// Reads a reply; the error is for the user.
pub fn status_from_line(text: &[u8]) -> Result<Status, String> {
    let reply: Reply<Status> =
        serde_json::from_slice(text).map_err(|e| format!("the answer cannot be read: {e}"))?;
    match reply {
        Reply { error: Some(message), .. } => Err(message),
        Reply { ok: Some(status), .. } => Ok(status),
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
        assert_eq!(status_from_line(&error_line("no")), Err("no".to_string()));
        assert_eq!(status_from_line(br#"{"version":1}"#), Err("the answer is empty".to_string()));
        assert!(status_from_line(b"junk").is_err_and(|e| e.contains("cannot be read")));
    }
}
