//! What the journal is told: every event with its stable word, MESSAGE_ID and explanation.
//!
//! The words and ids are an interface (docs/journal.md, the journal catalog); a test holds the
//! catalog to this table. An [`Event`] is given to slog's macros as a key-value pair of its own:
//! `info!(log, "text"; Event::Cut, "DRAINED_PROXY" => name)`.

use slog::{KV, Record, Serializer};

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $id:literal;)*) => {
        /// Something that happened and that an administrator may look for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $($(#[$doc])* $name,)* }

        impl Event {
            /// Every event, in the order in which they can happen.
            pub const ALL: &'static [Event] = &[$(Event::$name,)*];

            /// The stable word: journal field DRAINED_EVENT.
            pub fn word(self) -> &'static str {
                match self { $(Event::$name => $word,)* }
            }

            /// Journal field MESSAGE_ID: 32 lowercase hexadecimal digits, see journald's catalog.
            pub fn message_id(self) -> &'static str {
                match self { $(Event::$name => $id,)* }
            }
        }
    };
}

events! {
    /// Listeners and connections of the last incarnation were taken over.
    Adopted = "adopted", "42056efb64eda51ad2f46d810f0a716a";
    /// Something of the last incarnation could not be taken over.
    LetGo = "let-go", "765df7079d7bfc565fc3f64296deceae";
    /// The daemon is up: READY=1 was sent.
    Started = "started", "065daf6ab12bc70ca7b9cf7cf112959b";
    /// A listener takes in connections.
    Listening = "listening", "04242a89b5eb4c9040eb9bbe00986cf9";
    /// A client was connected to an upstream (debug).
    ConnectionOpened = "connection-opened", "f2db3b301251f359c29f01a9c84b11ee";
    /// A connection ended by itself (debug).
    ConnectionClosed = "connection-closed", "19881781f0c1513f4bc8d0fb072e1424";
    /// A connection was closed because no byte moved for idle_timeout.
    IdleTimeout = "idle-timeout", "0b63020273b9ca4cb0d5febb8285f8a6";
    /// A client was let go because no upstream took its connection.
    ConnectFailed = "connect-failed", "c35a03ecab434d29cbc69e6c93dd9ec6";
    /// An upstream does not take connections.
    UpstreamDown = "upstream-down", "e0226407b074d57742c9c3ea3f53d089";
    /// An upstream takes connections again.
    UpstreamUp = "upstream-up", "c9e30f244f2c0ae27ee835e1cf526cc6";
    /// The last connection of a drained upstream has ended.
    UpstreamDrained = "upstream-drained", "572e3ee607efc2e485dc675677830800";
    /// A hold by hand came to the end that it was given.
    HoldEnded = "hold-ended", "7018d95e315446e48d5987c834c4a38f";
    /// Somebody changed by the control socket what the daemon does, or was refused it.
    ByHand = "by-hand", "956de1a591675848c3912f1e15ace43d";
    /// A listener waits: max_connections is reached or file descriptors ran out.
    AcceptPaused = "accept-paused", "fef98cd1c70b97ce928ab15a6f5ba1b4";
    /// A listener that waited takes in connections again.
    AcceptResumed = "accept-resumed", "a1607241d15e23b4d728ff73443af040";
    /// A relay was broken off by an error other than an ordinary reset (debug).
    RelayFailed = "relay-failed", "8710c0f9e4113fb403a2305018cfeaaf";
    /// Another configuration was loaded.
    Reloaded = "reloaded", "7044eea0c0e447308b31836810cd6f21";
    /// A reload was asked for and not done.
    ReloadRefused = "reload-refused", "9766310585f53fb29571adb65225f387";
    /// A status report, asked for with SIGUSR1.
    Report = "report", "c259a9150e1a2d2d1ba4634f93a2079d";
    /// The stop began.
    Stopping = "stopping", "1f82104f18d911e406c23b84fff37a47";
    /// A phase of the stop began.
    Phase = "phase", "81fc0b37e919684eac85c4bc449a0ffa";
    /// A second signal hurries the stop, or a third ends it at once.
    Hurried = "hurried", "f4d83e1df6e53322dd8def2a09de15d8";
    /// A connection was cut at the deadline.
    Cut = "cut", "9cb39578ac0bfd77f7dd8a9848af18e7";
    /// Listeners and connections were left to the next incarnation.
    HandedOver = "handed-over", "6ae65cc6a6842ae73e8d28bf52a27211";
    /// A cleanup step failed or panicked.
    StepFailed = "step-failed", "8745e9945c27ce583e0fc46f53dbf7ec";
    /// A cleanup step did not end within its bound and was left behind.
    StepLeftBehind = "step-left-behind", "57ca6680daacec5fabfa07f710471e0f";
    /// A worker panicked or ended with an error.
    WorkerFailed = "worker-failed", "eaf181f5855271c1fb74b4d8a7ca092a";
    /// A worker did not end within its bound and was left behind.
    WorkerLeftBehind = "worker-left-behind", "fa7293bca7136ff3bec42247644c9711";
    /// A worker shows no life: the watchdog is no longer fed.
    WorkerHung = "worker-hung", "976cf64c1594ccf12d2979437c6b67ea";
    /// The notify socket cannot be used.
    NotifyFailed = "notify-failed", "56eb248136d15ca5b2081725c33007b1";
    /// Log messages were dropped.
    LogDropped = "log-dropped", "e4ce7d92abcf4efeb476aba298b439c9";
    /// The stop is over.
    Stopped = "stopped", "0d1688b5d245a0f6559f8ae743def242";
}

impl KV for Event {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("MESSAGE_ID", self.message_id())?;
        serializer.emit_str("DRAINED_EVENT", self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_ids_are_distinct_and_well_formed() {
        let mut words: Vec<_> = Event::ALL.iter().map(|e| e.word()).collect();
        let mut ids: Vec<_> = Event::ALL.iter().map(|e| e.message_id()).collect();
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b"0123456789abcdef".contains(&b))));
        words.sort_unstable();
        ids.sort_unstable();
        words.dedup();
        ids.dedup();
        assert_eq!((words.len(), ids.len()), (Event::ALL.len(), Event::ALL.len()));
        let log = slog::Logger::root(slog::Discard, slog::o!());
        slog::info!(log, "text"; Event::Cut, "DRAINED_PROXY" => "web");
    }
}
