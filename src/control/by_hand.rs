//! What `drainctl drain`, `resume` and `hold` are answered: one proxy, and what is set of it by hand.
//!
//! Field names and words are an interface; a later version may add fields, none is ever renamed.

use serde::{Deserialize, Serialize};

use super::status::UpstreamState;

/// One proxy after the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// Its name.
    pub proxy: String,
    /// The call has changed something: false where all was so already.
    pub changed: bool,
    /// Its new clients are held by hand.
    pub holding: bool,
    /// Milliseconds until that ends by itself; null: never, or they are not held.
    pub hold_ms: Option<u64>,
    /// Clients that wait for an upstream now.
    pub held: u64,
    /// Those that the call named, or all, in the order of the configuration.
    pub upstreams: Vec<UpstreamByHand>,
}

/// One upstream of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamByHand {
    /// As the configuration writes it.
    pub address: String,
    /// Whether it takes connections.
    pub state: UpstreamState,
    /// Open now.
    pub connections: u64,
    /// The drain that goes on or is over; null where it is not drained.
    pub drain: Option<UpstreamDrain>,
    /// Where it is down: what speaks against it, in words. Left out elsewhere, and where nothing was met yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
}

/// The drain of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamDrain {
    /// This call has begun it; false where somebody else did before.
    pub begun: bool,
    /// Connections when it began, or those that are left of it when drained was restarted since.
    pub began_with: u64,
    /// Those that were cut at its deadline.
    pub cut: u64,
    /// Milliseconds until its deadline; 0 once that has come.
    pub left_ms: u64,
}

impl ByHand {
    /// One line, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }

    /// Connections that were cut, of all upstreams.
    pub fn cut(&self) -> u64 {
        self.drains().map(|drain| drain.cut).sum()
    }

    /// Connections that are left, of all upstreams.
    pub fn left(&self) -> u64 {
        self.upstreams.iter().map(|upstream| upstream.connections).sum()
    }

    /// Why those are down that are, one after the other.
    pub fn down(&self) -> Option<String> {
        let all = self.upstreams.iter().filter_map(|upstream| upstream.down.as_deref());
        let all: Vec<_> = all.collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The drains of all upstreams that are drained.
    pub fn drains(&self) -> impl Iterator<Item = &UpstreamDrain> {
        self.upstreams.iter().filter_map(|upstream| upstream.drain.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_the_fixed_interface() {
        let answer = ByHand {
            proxy: "web".to_string(),
            changed: true,
            holding: false,
            hold_ms: None,
            held: 2,
            upstreams: vec![UpstreamByHand {
                address: "127.0.0.1:8000".to_string(),
                state: UpstreamState::Draining,
                connections: 3,
                drain: Some(UpstreamDrain { begun: true, began_with: 7, cut: 1, left_ms: 900 }),
                down: None,
            }],
        };
        let json = concat!(
            r#"{"proxy":"web","changed":true,"holding":false,"hold_ms":null,"held":2,"upstreams":["#,
            r#"{"address":"127.0.0.1:8000","state":"draining","connections":3,"#,
            r#""drain":{"begun":true,"began_with":7,"cut":1,"left_ms":900}}]}"#
        );
        assert_eq!(answer.to_json(), json);
        assert_eq!(serde_json::from_str::<ByHand>(json).expect("reads what it writes"), answer);
        assert_eq!((answer.cut(), answer.left()), (1, 3));
    }
}
