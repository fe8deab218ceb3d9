//! The proxies of one configuration, by their numbers. A reload replaces the whole; a proxy that stays keeps its
//! number, for connections and the ledger go by it.

use std::ops::Index;
use std::sync::Arc;

use super::fleet::Proxy;
use crate::handover::names::Names;

/// Immutable once it is shared.
#[derive(Clone, Default)]
pub struct Roster {
    /// None: nobody has the number.
    by_number: Vec<Option<Arc<Proxy>>>,
}

impl Roster {
    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Proxy>> {
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
