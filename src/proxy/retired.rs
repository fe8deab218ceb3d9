//! Upstreams that are configured no longer and have connections yet, or had when they were taken out.
//!
//! They stand behind those of the configuration: nobody new goes there, but their connections are counted, a
//! drain by hand goes on to its deadline, and one that a reload brings back is the same again. They are
//! forgotten when the upstreams of their proxy change once more and they are empty by then.

use std::sync::Arc;

use super::fleet::Proxy;
use super::listener;
use super::roster::Roster;
use super::upstream::Upstream;
use crate::Result;
use crate::config::{self, UpstreamAddress};
use crate::handover::record::NO_UPSTREAM;

/// Upstreams of one proxy: those of its configuration, and those that it had before.
pub(super) struct Upstreams {
    pub configured: Vec<Arc<Upstream>>,
    pub retired: Vec<Arc<Upstream>>,
}

impl Proxy {
    /// Those of the configuration, and behind them those that it had before.
    pub fn all_upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().chain(&self.retired)
    }

    /// The one at that place, by which connections go.
    pub fn upstream_at(&self, place: u16) -> Option<&Arc<Upstream>> {
        let place = usize::from(place);
        self.upstreams.get(place).or_else(|| self.retired.get(place - self.upstreams.len()))
    }

    /// The same, of a connection that has it: it stays for as long.
    pub(super) fn upstream(&self, place: u16) -> &Arc<Upstream> {
        self.upstream_at(place).expect("an upstream stays while it has connections")
    }

    /// Whether the configuration has the one at that place.
    pub(super) fn has_configured(&self, place: u16) -> bool {
        usize::from(place) < self.upstreams.len()
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.upstreams.len() + self.retired.len()
    }

    /// The place of the upstream of that name; one that is not configured gets a place. None: there is no
    /// such address, or no place is left.
    pub(super) fn place_of(&mut self, name: &str) -> Option<u16> {
        if let Some(place) = self.all_upstreams().position(|upstream| upstream.name == name) {
            return Some(place as u16);
        }
        let address = listener::upstream_address(&name.parse::<UpstreamAddress>().ok()?).ok()?;
        let place = u16::try_from(self.places()).ok().filter(|place| *place != NO_UPSTREAM)?;
        self.retired.push(Arc::new(Upstream::new(address, name.to_owned())));
        Some(place)
    }
}

impl Roster {
    /// What is left of removed proxies of that name: who comes back under it finds its upstreams there, each
    /// once.
    pub(super) fn left_of(&self, name: &str) -> Vec<Arc<Upstream>> {
        let mut left: Vec<Arc<Upstream>> = Vec::new();
        let of_name = |proxy: &&Arc<Proxy>| proxy.departed && !proxy.is_gone() && proxy.config.name == name;
        for upstream in self.iter().filter(of_name).flat_map(|proxy| proxy.all_upstreams()) {
            if !left.iter().any(|other| Arc::ptr_eq(other, upstream)) {
                left.push(Arc::clone(upstream));
            }
        }
        left.iter().for_each(|upstream| upstream.come_back());
        left
    }
}

impl Upstreams {
    /// Those of `config`, where `before` are those that the proxy had, `known` of them by its configuration.
    /// One that stays, or comes back while it has connections, is the same with all that is known of it.
    ///
    /// # Errors
    /// An address is none.
    pub fn renewed(config: &config::Proxy, before: &[Arc<Upstream>], known: usize) -> Result<Upstreams> {
        let lives = |(place, upstream): &(usize, &Arc<Upstream>)| *place < known || upstream.active() > 0;
        let living: Vec<_> = before.iter().enumerate().filter(lives).collect();
        let upstream = |address: &UpstreamAddress| {
            let name = address.to_string();
            match living.iter().find(|(_, upstream)| upstream.name == name) {
                Some((place, upstream)) => {
                    if *place >= known {
                        upstream.come_back();
                    }
                    Ok(Arc::clone(upstream))
                }
                None => Ok(Arc::new(Upstream::new(listener::upstream_address(address)?, name))),
            }
        };
        let configured = config.upstream.iter().map(upstream).collect::<Result<Vec<_>>>()?;
        let is_gone = |one: &Arc<Upstream>| !configured.iter().any(|other| Arc::ptr_eq(one, other));
        let gone = living.into_iter().map(|(_, upstream)| upstream).filter(|upstream| is_gone(upstream));
        // Whoever is on its way there when workers take the change in has a place until it is turned away.
        let room = usize::from(NO_UPSTREAM) - configured.len();
        let retired = gone.take(room).cloned().collect();
        Ok(Upstreams { configured, retired })
    }

    /// The place of one in it.
    pub fn place(&self, one: &Arc<Upstream>) -> Option<u16> {
        let all = || self.configured.iter().chain(&self.retired);
        all().position(|other| Arc::ptr_eq(one, other)).map(|place| place as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(upstreams: &[&str]) -> config::Proxy {
        let upstreams: Vec<_> = upstreams.iter().map(|address| (*address).to_owned()).collect();
        let listen = ["127.0.0.1:0".to_owned()];
        let mut config = config::Config::from_command_line(&listen, &upstreams, None, None).unwrap();
        config.proxies.remove(0)
    }

    fn all(upstreams: Upstreams) -> Vec<Arc<Upstream>> {
        [upstreams.configured, upstreams.retired].concat()
    }

    #[test]
    fn one_that_comes_back_is_the_same_while_it_has_connections_and_another_after() {
        let (with, without) = (config(&["127.0.0.1:1", "127.0.0.1:2"]), config(&["127.0.0.1:1"]));
        let first = all(Upstreams::renewed(&with, &[], 0).unwrap());
        first[1].enter();
        let second = Upstreams::renewed(&without, &first, 2).unwrap();
        assert!(Arc::ptr_eq(&second.configured[0], &first[0]) && Arc::ptr_eq(&second.retired[0], &first[1]));
        assert_eq!((second.place(&first[0]), second.place(&first[1])), (Some(0), Some(1)));
        let second = all(second);
        second[1].set_up(false);
        let third = Upstreams::renewed(&with, &second, 1).unwrap();
        assert!(third.retired.is_empty() && Arc::ptr_eq(&third.configured[1], &first[1]));
        assert!(third.configured[1].is_up(), "nobody has tried it lately");
        first[1].leave();
        let fourth = Upstreams::renewed(&with, &second, 1).unwrap();
        assert!(fourth.retired.is_empty() && !Arc::ptr_eq(&fourth.configured[1], &first[1]));
        assert_eq!(fourth.place(&first[1]), None);
    }
}
