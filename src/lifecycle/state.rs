//! The states of a daemon, as one table.
//!
//! Pure: who changes the state, and what else happens then, is elsewhere ([`super::core`]).

use std::fmt;

/// The state of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From the start of the process to READY=1.
    Starting,
    /// From READY=1 to the stop.
    Running,
    /// Running, and a new configuration is being taken in.
    Reloading,
    /// A stop is in progress.
    Draining,
    /// A stop is in progress, after which the next incarnation goes on with the connections.
    HandingOver,
    /// The stop is over: only at-exit hooks are left.
    Stopped,
}

/// What changes the state of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The daemon says that it is up.
    Ready,
    /// A reload begins.
    Reload,
    /// A reload ended, well or not.
    Reloaded,
    /// A stop begins, or a handover turns into one.
    Drain,
    /// A handover begins, or a drain turns into one.
    HandOver,
    /// The phases of the stop are over.
    End,
}

/// A transition that doesn't exist: nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalTransition {
    /// The state that stays.
    pub state: State,
    /// What has no place in it.
    pub transition: Transition,
}

impl State {
    /// The state after `transition`.
    pub fn on(self, transition: Transition) -> Result<State, IllegalTransition> {
        use State::*;
        use Transition::*;
        let illegal = Err(IllegalTransition { state: self, transition });
        match (self, transition) {
            (Starting, Ready) => Ok(Running),
            (Starting, Reload) => illegal,
            (Starting, Reloaded) => illegal,
            (Starting, Drain) => Ok(Draining),
            (Starting, HandOver) => Ok(HandingOver),
            (Starting, End) => illegal,

            (Running, Ready) => illegal,
            (Running, Reload) => Ok(Reloading),
            (Running, Reloaded) => illegal,
            (Running, Drain) => Ok(Draining),
            (Running, HandOver) => Ok(HandingOver),
            (Running, End) => illegal,

            (Reloading, Ready) => illegal,
            (Reloading, Reload) => illegal,
            (Reloading, Reloaded) => Ok(Running),
            (Reloading, Drain) => Ok(Draining),
            (Reloading, HandOver) => Ok(HandingOver),
            (Reloading, End) => illegal,

            (Draining, Ready) => illegal,
            (Draining, Reload) => illegal,
            (Draining, Reloaded) => illegal,
            (Draining, Drain) => illegal,
            (Draining, HandOver) => Ok(HandingOver),
            (Draining, End) => Ok(Stopped),

            (HandingOver, Ready) => illegal,
            (HandingOver, Reload) => illegal,
            (HandingOver, Reloaded) => illegal,
            (HandingOver, Drain) => Ok(Draining),
            (HandingOver, HandOver) => illegal,
            (HandingOver, End) => Ok(Stopped),

            (Stopped, Ready) => illegal,
            (Stopped, Reload) => illegal,
            (Stopped, Reloaded) => illegal,
            (Stopped, Drain) => illegal,
            (Stopped, HandOver) => illegal,
            (Stopped, End) => illegal,
        }
    }

    /// The word for the state: starting, running, reloading, draining, handing-over, stopped.
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Reloading => "reloading",
            State::Draining => "draining",
            State::HandingOver => "handing-over",
            State::Stopped => "stopped",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.transition {
            Transition::Ready => "become ready",
            Transition::Reload => "reload",
            Transition::Reloaded => "end a reload",
            Transition::Drain => "drain",
            Transition::HandOver => "hand over",
            Transition::End => "end",
        };
        write!(f, "cannot {what} while {}", self.state)
    }
}

impl std::error::Error for IllegalTransition {}

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::Transition::*;
    use super::*;

    const STATES: [State; 6] = [Starting, Running, Reloading, Draining, HandingOver, Stopped];
    const TRANSITIONS: [Transition; 6] = [Ready, Reload, Reloaded, Drain, HandOver, End];

    /// The whole table, written down a second time: a row a state, a column a transition.
    #[test]
    fn every_pair_leads_where_the_table_says() {
        #[rustfmt::skip]
        let table = [
            [Some(Running), None, None, Some(Draining), Some(HandingOver), None],
            [None, Some(Reloading), None, Some(Draining), Some(HandingOver), None],
            [None, None, Some(Running), Some(Draining), Some(HandingOver), None],
            [None, None, None, None, Some(HandingOver), Some(Stopped)],
            [None, None, None, Some(Draining), None, Some(Stopped)],
            [None; 6],
        ];
        for (state, row) in STATES.into_iter().zip(table) {
            for (transition, expected) in TRANSITIONS.into_iter().zip(row) {
                let expected = expected.ok_or(IllegalTransition { state, transition });
                assert_eq!(state.on(transition), expected, "{state:?} on {transition:?}");
            }
        }
    }

    #[test]
    fn every_state_but_the_last_can_stop() {
        for state in STATES.into_iter().filter(|&s| s != Stopped) {
            let draining = state.on(Drain).unwrap_or(state);
            assert_eq!(draining.on(End), Ok(Stopped), "from {state:?}");
        }
        let error = Draining.on(Reload).unwrap_err();
        assert_eq!(error.to_string(), "cannot reload while draining");
    }
}
