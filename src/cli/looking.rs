//! `drainctl connections` and `drainctl top`: arguments to a query, and an answer to lines.

use std::path::Path;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::control::clients::Clients;
use crate::control::connections::{Doing, Listing, Query, Sort};
use crate::control::paint::{self, Paint};
use crate::control::protocol::Call;
use crate::control::top::{self, Ended};
use crate::control::{client, listing};
use crate::{Error, Exit, Result};

/// Which connections, in which order.
#[derive(Args, Debug)]
pub struct Connections {
    /// Only those of this proxy
    #[arg(value_name = "PROXY")]
    proxy: Option<String>,

    /// Only those to this upstream, as the configuration writes it
    #[arg(long, value_name = "ADDR")]
    upstream: Option<String>,

    /// Only those of this client: an address, with or without a port, a network (192.0.2.0/24), or unix
    #[arg(long, value_name = "CLIENT")]
    client: Option<Clients>,

    /// Only those in one state
    #[arg(long, value_name = "STATE", value_parser = doing(), hide_possible_values = true, help = states())]
    state: Option<Doing>,

    /// In this order: the oldest first, the longest silence, the most bytes, or by address
    #[arg(long, value_name = "KEY", value_parser = sort(), default_value = "age")]
    sort: Sort,

    /// Not more than so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

fn states() -> String {
    format!("Only those in this state: {}", Doing::WORDS.join(", "))
}

fn doing() -> impl TypedValueParser<Value = Doing> {
    PossibleValuesParser::new(Doing::WORDS).try_map(|word| word.parse())
}

fn sort() -> impl TypedValueParser<Value = Sort> {
    PossibleValuesParser::new(Sort::WORDS).try_map(|word| word.parse())
}

impl Connections {
    /// Asks, and prints what is told. An answer that is not whole is an error after it was printed.
    ///
    /// # Errors
    /// Exit 65 where there is no such proxy or upstream, 69 where no daemon answers, 70 where a worker of it
    /// does not.
    pub fn run(&self, socket: &Path, json: bool) -> Result<()> {
        let listing: Listing = client::call(socket, &Call::Connections(self.query()))?;
        // Where none is shown, the text has said how many there are.
        let is_told = !json && listing.connections.is_empty() && listing.silent_workers == 0;
        if json {
            print_lines(&listing);
        } else {
            super::say(listing::render(&listing, Paint::for_stdout(), paint::width_of_stdout()));
        }
        for note in listing::notes(&listing).iter().filter(|_| !is_told) {
            super::complain(format_args!("drainctl: {note}"));
        }
        match listing.silent_workers {
            0 => Ok(()),
            _ => Err(Error::new(Exit::Software, "the list is not whole")),
        }
    }

    fn query(&self) -> Query {
        let Connections { proxy, upstream, client, state, sort, limit } = self;
        let (proxy, upstream, client) = (proxy.clone(), upstream.clone(), *client);
        Query { proxy, upstream, client, state: *state, text: None, sort: *sort, limit: *limit }
    }
}

/// Shows the daemon on the whole terminal.
///
/// # Errors
/// As [`top::run`] has them.
pub fn top(socket: &Path, json: bool) -> Result<()> {
    if let Ended::Signal(signal) = top::run(socket, json)? {
        // Has the parent see by what it ended. Fails for no signal that there is.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    Ok(())
}

/// At once, since standard output flushes at the end of each line.
fn print_lines(listing: &Listing) {
    let lines: Vec<_> = listing.connections.iter().map(|row| paint::printable_json(row.to_json())).collect();
    if !lines.is_empty() {
        super::say(lines.join("\n"));
    }
}
