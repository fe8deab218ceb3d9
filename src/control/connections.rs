//! What `drainctl connections` asks and is told: the call's arguments, and the fixed object of its
//! `--json` lines.
//!
//! Field names and words are an interface; a later version may add fields, none is ever renamed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::clients::Clients;
use super::status::Bytes;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $($(#[$each:meta])* $variant:ident = $word:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$each])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The words of all of them.
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

            /// As in the JSON.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<$name, String> {
                let known = || format!("{word:?} is none of {}", $name::WORDS.join(", "));
                $name::ALL.iter().find(|one| one.word() == word).copied().ok_or_else(known)
            }
        }
    };
}

words! {
    /// What a connection does.
    Doing:
    /// It waits for an upstream that takes it.
    Held = "held",
    /// An upstream is being tried.
    Connecting = "connecting",
    /// Bytes are on their way.
    SendingToUpstream = "sending-to-upstream",
    /// Bytes are on their way.
    SendingToClient = "sending-to-client",
    /// The last byte came from the client: an answer is due.
    WaitingForUpstream = "waiting-for-upstream",
    /// The client has ended its stream, the upstream goes on.
    HalfClosed = "half-closed",
    /// Bytes moved within the last second.
    Active = "active",
    /// None of these: it may be told goodbye.
    Quiet = "quiet",
    /// It was told goodbye; the peers' end is missing.
    Closing = "closing",
}

words! {
    /// The order of the answer. Among equals the older connection comes first.
    #[derive(Default)]
    Sort:
    /// The oldest first.
    #[default]
    Age = "age",
    /// The longest silence first.
    Idle = "idle",
    /// The most bytes first, both ways together.
    Bytes = "bytes",
    /// By the client's address.
    Client = "client",
    /// By the upstream's address, then by the proxy's name.
    Upstream = "upstream",
}

impl Sort {
    /// The one after it; after the last the first.
    pub fn next(self) -> Sort {
        let at = Sort::ALL.iter().position(|one| *one == self).unwrap_or_default();
        Sort::ALL[(at + 1) % Sort::ALL.len()]
    }
}

/// Which connections, and in which order: without anything all of them, the oldest first. All that is given must
/// fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Query {
    /// The proxy's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The upstream's address, as the configuration writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Clients>,
    /// What they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Doing>,
    /// Something that stands in one of their words or addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// In which order.
    pub sort: Sort,
    /// How many at the most. Beyond what an answer can hold the rest is left out as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Connections that were looked at.
    pub total: u64,
    /// Those of them that fit the query.
    pub matching: u64,
    /// Workers that did not tell all of their connections in time.
    pub silent_workers: u64,
    /// Those that fit, as many as the limit allows.
    pub connections: Vec<Row>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The journal's DRAINED_CONNECTION.
    pub id: u64,
    /// Its name.
    pub proxy: String,
    /// As the configuration writes it.
    pub protocol: String,
    /// `192.0.2.7:4711`, `[2001:db8::7]:4711` or `unix:pid=4711`.
    pub client: String,
    /// As the configuration writes it; null while none is chosen, or where it is no longer configured.
    pub upstream: Option<String>,
    /// What it does.
    pub state: Doing,
    /// Milliseconds since it was accepted, also by an earlier process.
    pub age_ms: u64,
    /// Milliseconds since the last byte.
    pub idle_ms: u64,
    /// Relayed so far.
    pub bytes: Bytes,
    /// Whether it would outlive a crash.
    pub parked: bool,
}

impl Listing {
    /// How many fit and are not among the [connections](Self::connections).
    pub fn left_out(&self) -> u64 {
        self.matching.saturating_sub(self.connections.len() as u64)
    }
}

impl Row {
    /// One line, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }

    /// Whether `text` stands in one of its words or addresses.
    pub fn has(&self, text: &str) -> bool {
        let words = [&self.proxy, &self.protocol, &self.client, self.state.word()];
        words.into_iter().chain(self.upstream.as_deref()).any(|word| word.contains(text))
    }
}

impl Query {
    /// Says what is wrong where the query names a proxy or an upstream that is not among the `known`: the
    /// proxies' names, each with its upstreams.
    ///
    /// # Errors
    /// A line for the one who asked, which names those that are known.
    pub fn check<'a>(&self, known: &[(&'a str, Vec<&'a str>)]) -> Result<(), String> {
        let asked = self.proxy.as_deref();
        if let Some(proxy) = asked
            && !known.iter().any(|(name, _)| *name == proxy)
        {
            let mut names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            names.dedup();
            return Err(format!("there is no proxy {proxy:?}; {}", Known("proxies", names)));
        }
        let Some(upstream) = &self.upstream else { return Ok(()) };
        let proxies = known.iter().filter(|(name, _)| asked.is_none_or(|asked| asked == *name));
        let mut addresses: Vec<&str> = proxies.flat_map(|(_, upstreams)| upstreams.iter().copied()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.contains(&upstream.as_str()) {
            return Ok(());
        }
        let of = asked.map_or(String::new(), |proxy| format!(" of proxy {proxy}"));
        Err(format!("there is no upstream {upstream:?}{of}; {}", Known("upstreams", addresses)))
    }
}

/// `the proxies are a, b`: as many as one can read.
struct Known<'a>(&'a str, Vec<&'a str>);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 20;
        let Known(what, names) = self;
        match names.len() {
            0 => write!(f, "there are no {what}"),
            n if n > MOST => write!(f, "the {what} are {} and {} more", names[..MOST].join(", "), n - MOST),
            _ => write!(f, "the {what} are {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Call;
    use super::*;

    #[test]
    fn the_json_is_the_fixed_interface() {
        let mut row = Row {
            id: 7,
            proxy: "web".to_string(),
            protocol: "tcp".to_string(),
            client: "192.0.2.7:4711".to_string(),
            upstream: Some("127.0.0.1:8000".to_string()),
            state: Doing::HalfClosed,
            age_ms: 61_000,
            idle_ms: 12,
            bytes: Bytes { to_upstream: 5, to_client: 6 },
            parked: true,
        };
        let json = concat!(
            r#"{"id":7,"proxy":"web","protocol":"tcp","client":"192.0.2.7:4711","upstream":"127.0.0.1:8000","#,
            r#""state":"half-closed","age_ms":61000,"idle_ms":12,"bytes":{"to_upstream":5,"to_client":6},"#,
            r#""parked":true}"#
        );
        assert_eq!(row.to_json(), json);
        assert_eq!(serde_json::from_str::<Row>(json).expect("reads what it writes"), row);
        for (text, has) in
            [("web", true), ("192.0.2", true), (":8000", true), ("half", true), ("idle", false)]
        {
            assert_eq!(row.has(text), has, "{text}");
        }
        row.upstream = None;
        assert!(row.to_json().contains(r#""upstream":null"#) && !row.has(":8000"));
    }

    #[test]
    fn a_call_may_leave_out_all_and_names_what_is_wrong() {
        let call =
            |more: &str| Call::from_line(format!(r#"{{"version":1,"call":"connections"{more}}}"#).as_bytes());
        assert_eq!(call(""), Ok(Call::Connections(Query::default())));
        let query = Query {
            proxy: Some("web".to_string()),
            upstream: Some("127.0.0.1:8000".to_string()),
            client: Some("192.0.2.0/24".parse().expect("a network")),
            state: Some(Doing::Quiet),
            text: Some("x".to_string()),
            sort: Sort::Bytes,
            limit: Some(3),
        };
        let asked = Call::Connections(query);
        assert_eq!(Call::from_line(&asked.to_line()), Ok(asked));
        for (more, names) in [
            (r#","state":"lazy""#, "half-closed"),
            (r#","sort":"size""#, "bytes"),
            (r#","client":"nobody""#, "192.0.2.0/24"),
            (r#","limit":-1"#, "-1"),
        ] {
            let error = call(more).expect_err(more);
            assert!(error.contains("\"connections\"") && error.contains(names), "{error}");
        }
    }

    #[test]
    fn what_is_not_known_names_what_is() {
        let known = [("api", vec!["unix:/a"]), ("web", vec!["127.0.0.1:1", "127.0.0.1:2"])];
        let query = |proxy: Option<&str>, upstream: Option<&str>| Query {
            proxy: proxy.map(str::to_owned),
            upstream: upstream.map(str::to_owned),
            ..Query::default()
        };
        for (proxy, upstream, error) in [
            (None, None, ""),
            (Some("web"), Some("127.0.0.1:2"), ""),
            (None, Some("unix:/a"), ""),
            (Some("wep"), None, "there is no proxy \"wep\"; the proxies are api, web"),
            (
                Some("api"),
                Some("127.0.0.1:1"),
                "there is no upstream \"127.0.0.1:1\" of proxy api; the upstreams are unix:/a",
            ),
            (
                None,
                Some("x"),
                "there is no upstream \"x\"; the upstreams are 127.0.0.1:1, 127.0.0.1:2, unix:/a",
            ),
        ] {
            let checked = query(proxy, upstream).check(&known);
            assert_eq!(checked.err().unwrap_or_default(), error);
        }
        assert!(query(Some("x"), None).check(&[]).is_err_and(|e| e.ends_with("there are no proxies")));
    }

    #[test]
    fn words_are_read_back() {
        for one in Doing::ALL {
            assert_eq!(one.word().parse(), Ok(*one));
            assert_eq!(serde_json::to_string(one).expect("json"), format!("{:?}", one.word()));
        }
        assert!(
            "size"
                .parse::<Sort>()
                .is_err_and(|e| e == "\"size\" is none of age, idle, bytes, client, upstream")
        );
        assert_eq!(Sort::Upstream.next(), Sort::Age);
    }
}
