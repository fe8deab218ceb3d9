//! A connection on its way to the next incarnation, and out of the last one.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::connection::{Connection, Half};
use super::flow::Flow;
use crate::handover::adopt::Adopted;
use crate::handover::record::{Direction, Record};
use crate::sys::socket;

impl Connection {
    /// Takes it apart: what is to be known of it, and everything that is to be parked. A goodbye that
    /// was said is forgotten; the streams that it ended stay ended.
    ///
    /// # Errors
    /// The kernel doesn't tell what a file descriptor is; the connection is closed then.
    pub fn into_parts(self, proxy: &str, upstream: &str) -> Result<(Record, Vec<OwnedFd>), Errno> {
        let mut fds = Vec::with_capacity(2);
        let record = Record {
            id: self.id,
            proxy: proxy.to_owned(),
            upstream: upstream.to_owned(),
            peer: self.peer,
            client: socket::cookie(self.client.as_fd())?,
            server: match &self.server {
                Some(server) if self.connect_until.is_none() => socket::cookie(server.as_fd())?,
                _ => 0,
            },
            opened: self.opened,
            last: self.last,
            answer_due: self.answer_due,
            client_ended: self.client_ended,
            to_upstream: self.to_upstream.into_parts(&mut fds)?,
            to_client: self.to_client.into_parts(&mut fds)?,
        };
        fds.push(self.client);
        fds.extend(self.server.filter(|_| record.server != 0));
        Ok((record, fds))
    }

    /// Puts one together again, under the proxy and the upstream that the configuration has now.
    pub fn adopted(adopted: Adopted, proxy: u16, upstream: Option<u16>) -> Connection {
        let Adopted { record, client, server, to_upstream, to_client } = adopted;
        let mut connection = Connection::new(record.id, client, record.peer, proxy, record.opened);
        connection.connect_until = server.is_none().then_some(0);
        connection.upstream = upstream;
        connection.server = server;
        connection.last = record.last;
        connection.answer_due = record.answer_due;
        connection.client_ended = record.client_ended;
        for (half, direction, pipe) in [
            (&mut connection.to_upstream, record.to_upstream, to_upstream),
            (&mut connection.to_client, record.to_client, to_client),
        ] {
            half.flow = flow(&direction);
            half.pipe = pipe;
        }
        connection
    }
}

impl Half {
    fn into_parts(self, fds: &mut Vec<OwnedFd>) -> Result<Direction, Errno> {
        let mut direction = Direction {
            bytes: self.flow.bytes,
            held: self.flow.held,
            pipe: 0,
            ended: self.flow.has_ended(),
            over: self.flow.is_over(),
        };
        if let (1.., Some(pipe)) = (self.flow.held, self.pipe) {
            let (read, write) = pipe.into_ends();
            direction.pipe = fstat(&read)?.st_ino;
            fds.extend([read, write]);
        }
        Ok(direction)
    }
}

/// A flow of which nothing is known but what the record says: both ends count as ready until the
/// kernel says otherwise.
fn flow(direction: &Direction) -> Flow {
    let mut flow = Flow::default();
    (flow.held, flow.bytes) = (direction.held, direction.bytes);
    flow.source_ready();
    flow.sink_ready();
    if direction.ended {
        flow.end_source();
    }
    if direction.over {
        flow.finished();
    }
    flow
}
