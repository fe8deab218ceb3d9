//! The proxies of one configuration, by their numbers. A reload replaces the whole; a proxy that stays keeps its
//! number, for connections and the ledger go by it.

use std::collections::HashMap;
use std::ops::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::fleet::{Proxy, lock};
use super::listener::Listener;
use crate::handover::names::Names;

/// From one roster to the next.
pub(super) struct Change {
    pub roster: Arc<Roster>,
    /// By the numbers of the old one. None: nothing of that proxy is left.
    pub moves: Vec<Option<Move>>,
    /// Workers that have not taken it in yet.
    pub behind: AtomicUsize,
}

/// Where a proxy went.
pub(super) struct Move {
    pub to: u16,
    /// By their places in the old one, the places of its upstreams in the new one. None: they are the same.
    pub upstreams: Option<Vec<Option<u16>>>,
}

impl Change {
    /// Where the proxy of this number went.
    pub fn of(&self, number: u16) -> Option<&Move> {
        self.moves.get(usize::from(number))?.as_ref()
    }

    /// All workers have taken it in.
    pub fn is_done(&self) -> bool {
        self.behind.load(SeqCst) == 0
    }
}

impl Move {
    /// The place of an upstream in the new proxy; None: it is none of its any more.
    pub fn upstream(&self, index: u16) -> Option<u16> {
        match &self.upstreams {
            None => Some(index),
            Some(places) => places.get(usize::from(index)).copied().flatten(),
        }
    }
}

/// Immutable once it is shared.
#[derive(Clone, Default)]
pub struct Roster {
    /// None: nobody has the number.
    by_number: Vec<Option<Arc<Proxy>>>,
}

impl Roster {
    /// In the order of their numbers.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Proxy>> {
        self.by_number.iter().flatten()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// Each with its number.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u16, &Arc<Proxy>)> {
        (0..).zip(&self.by_number).filter_map(|(number, proxy)| Some((number, proxy.as_ref()?)))
    }

    /// One more than the highest number.
    pub(super) fn size(&self) -> usize {
        self.by_number.len()
    }

    /// Adds one; returns its number.
    pub(super) fn push(&mut self, proxy: Arc<Proxy>) -> u16 {
        self.by_number.push(Some(proxy));
        (self.by_number.len() - 1) as u16
    }

    /// The proxy of this number.
    pub fn get(&self, number: usize) -> Option<&Arc<Proxy>> {
        self.by_number.get(number)?.as_ref()
    }

    /// The proxy of this number, before it is shared.
    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut Proxy> {
        Arc::get_mut(self.by_number.get_mut(usize::from(number))?.as_mut()?)
    }

    /// Gives a number to a proxy.
    pub(super) fn set(&mut self, number: usize, proxy: Arc<Proxy>) {
        if self.by_number.len() <= number {
            self.by_number.resize(number + 1, None);
        }
        self.by_number[number] = Some(proxy);
    }

    /// Whose each listener is.
    pub(super) fn homes(&self) -> HashMap<*const Listener, (u16, Arc<Listener>)> {
        let of_proxy = |(number, proxy): (u16, &Arc<Proxy>)| {
            let listeners = lock(&proxy.listeners).clone();
            listeners.into_iter().map(move |listener| (Arc::as_ptr(&listener), (number, listener)))
        };
        self.numbered().flat_map(of_proxy).collect()
    }

    /// What the ledger calls them by their numbers.
    pub(super) fn names(&self) -> Names {
        self.by_number.iter().map(|proxy| proxy.as_ref().map(|p| p.names()).unwrap_or_default()).collect()
    }
}

impl FromIterator<Proxy> for Roster {
    fn from_iter<T: IntoIterator<Item = Proxy>>(proxies: T) -> Roster {
        Roster { by_number: proxies.into_iter().map(|proxy| Some(Arc::new(proxy))).collect() }
    }
}

impl Index<u16> for Roster {
    type Output = Proxy;

    /// Of a number that a connection or a door has: it stays with its proxy for as long.
    fn index(&self, number: u16) -> &Proxy {
        self.by_number[usize::from(number)].as_ref().expect("a proxy stays while anything belongs to it")
    }
}
