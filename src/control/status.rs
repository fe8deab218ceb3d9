//! What `drainctl status` tells: the fixed object of `drainctl --json status`.
//!
//! Field names and words are an interface; a later version may add fields, none is ever renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lifecycle;

/// The whole object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon, not of the one who asks.
    pub version: String,
    /// Of the daemon.
    pub pid: u32,
    /// Of the daemon.
    pub state: State,
    /// Seconds since the process started.
    pub uptime_s: u64,
    /// From the process before this one.
    pub adopted: Adopted,
    /// By their names.
    pub proxies: BTreeMap<String, ProxyStatus>,
}

/// What was taken over from the process before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// How many.
    pub listeners: u64,
    /// How many.
    pub connections: u64,
    /// Milliseconds that the connections had to wait; after a crash at the most. Null where nothing was taken
    /// over.
    #[serde(default)]
    pub pause_ms: Option<u64>,
}

/// One proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Of this proxy alone; otherwise that of the daemon.
    pub state: State,
    /// As the configuration writes it.
    pub protocol: String,
    /// How many, of which kind.
    pub connections: Connections,
    /// Relayed since the start.
    pub bytes: Bytes,
    /// In the order of the configuration.
    pub upstreams: Vec<UpstreamStatus>,
    /// New clients wait because an administrator wants it so.
    #[serde(default)]
    pub holding: bool,
}

/// Numbers of connections of one proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Open now.
    pub active: u64,
    /// Of clients that wait for an upstream now.
    pub held: u64,
    /// Since the start.
    pub accepted: u64,
    /// Ended by themselves or by a goodbye during a drain.
    pub drained: u64,
    /// Cut at a deadline.
    pub cut: u64,
    /// Let go because no upstream took them, or broken off by an error.
    pub failed: u64,
}

/// Numbers of bytes of one proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Sent by clients.
    pub to_upstream: u64,
    /// Sent by upstreams.
    pub to_client: u64,
}

/// One upstream of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// As the configuration writes it.
    pub address: String,
    /// Whether it takes connections.
    pub state: UpstreamState,
    /// Open now.
    pub connections: u64,
}

/// The state of the daemon, or of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not yet ready.
    Starting,
    /// Relaying.
    Running,
    /// Relaying, while a new configuration is taken in.
    Reloading,
    /// Stopping: connections at work may finish.
    Draining,
    /// Stopping: connections live on in the next process.
    HandingOver,
}

/// Whether an upstream takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamState {
    /// It does, as far as is known.
    Up,
    /// It does not; it is tried again in the background.
    Down,
    /// It shall not: an administrator drains it, and it has connections yet.
    Draining,
    /// The same, and it has none.
    Drained,
}

impl Status {
    /// One line, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and maps with string keys always serialize")
    }
}

impl State {
    /// As in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Reloading => "reloading",
            State::Draining => "draining",
            State::HandingOver => "handing-over",
        }
    }
}

impl From<lifecycle::State> for State {
    /// A daemon that can still be asked has not stopped: the last of its drain is told.
    fn from(state: lifecycle::State) -> State {
        match state {
            lifecycle::State::Starting => State::Starting,
            lifecycle::State::Running => State::Running,
            lifecycle::State::Reloading => State::Reloading,
            lifecycle::State::Draining | lifecycle::State::Stopped => State::Draining,
            lifecycle::State::HandingOver => State::HandingOver,
        }
    }
}

impl UpstreamState {
    /// As in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            UpstreamState::Up => "up",
            UpstreamState::Down => "down",
            UpstreamState::Draining => "draining",
            UpstreamState::Drained => "drained",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_the_fixed_interface() {
        let status = Status {
            version: "0.1.0".to_string(),
            pid: 7,
            state: State::HandingOver,
            uptime_s: 3,
            adopted: Adopted::default(),
            proxies: BTreeMap::from([(
                "web".to_string(),
                ProxyStatus {
                    state: State::Running,
                    holding: false,
                    protocol: "tcp".to_string(),
                    connections: Connections { active: 1, accepted: 2, ..Connections::default() },
                    bytes: Bytes { to_upstream: 5, to_client: 6 },
                    upstreams: vec![UpstreamStatus {
                        address: "127.0.0.1:8000".to_string(),
                        state: UpstreamState::Down,
                        connections: 1,
                    }],
                },
            )]),
        };
        let json = concat!(
            r#"{"version":"0.1.0","pid":7,"state":"handing-over","uptime_s":3,"#,
            r#""adopted":{"listeners":0,"connections":0,"pause_ms":null},"#,
            r#""proxies":{"web":{"state":"running","protocol":"tcp","#,
            r#""connections":{"active":1,"held":0,"accepted":2,"drained":0,"cut":0,"failed":0},"#,
            r#""bytes":{"to_upstream":5,"to_client":6},"#,
            r#""upstreams":[{"address":"127.0.0.1:8000","state":"down","connections":1}],"holding":false}}}"#
        );
        assert_eq!(status.to_json(), json);
        assert_eq!(serde_json::from_str::<Status>(json).expect("reads what it writes"), status);
    }

    #[test]
    fn words_are_those_of_the_json() {
        for state in [State::Starting, State::Running, State::Reloading, State::Draining, State::HandingOver]
        {
            assert_eq!(serde_json::to_string(&state).expect("json"), format!("{:?}", state.word()));
        }
        for state in [UpstreamState::Up, UpstreamState::Down, UpstreamState::Draining, UpstreamState::Drained]
        {
            assert_eq!(serde_json::to_string(&state).expect("json"), format!("{:?}", state.word()));
        }
    }
}
