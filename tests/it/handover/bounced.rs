//! SIGKILL while a small message goes through a worker's buffer: nothing of it is lost, and nothing is sent twice.
//!
//! Messages that the sink takes only in part are the `killer`'s, which meets them by chance.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::{ALWAYS, Port, adopted, proxy};
use crate::support::drained::Setup;
use crate::support::peers::{Ended, Listener, connect, read_to_end, reset, talk};
use crate::support::store::{LISTENER, Store};

const MESSAGE: &[u8] = b"a message that is on its way";
/// Where a message is on its way, in this order.
const POINTS: [&str; 4] = ["bounce-bound", "bounce-read", "bounce-sent", "bounce-unbound"];

/// Who sends the message, to whom, and a daemon that was killed at a point when it came by.
struct Killed {
    from: TcpStream,
    to: TcpStream,
    store: Store,
    config: String,
    _upstream: Listener,
    _port: Port,
}

impl Killed {
    fn at(point: &str, earlier: u32, upwards: bool) -> Killed {
        let (port, upstream) = (Port::reserve(), Listener::new());
        let config =
            format!("{ALWAYS}crash_after = \"0s\"\n{}", proxy("p", &[port.address()], &upstream.address));
        let mut store = Store::start(Setup::new(&config));
        store.wait_count(LISTENER, 1);
        let (client, server) = (connect(port.address()), upstream.accept());
        // Earlier bytes count too, and what counted them in this process is gone with it. Who was served is parked.
        for _ in 0..=earlier {
            talk(&client, &server);
        }
        store.daemon().signal(nix::sys::signal::Signal::SIGKILL);
        store.wait_killed();
        // What it has moved itself counts as well: two talks are two messages each way.
        let nth = 1 + 2 * earlier;
        store.spawn(Setup::new(&config).env("DRAINED_TEST_FAULT", &format!("kill:{point}:{nth}")));
        for _ in 0..earlier {
            talk(&client, &server);
        }
        let (mut from, to) = if upwards { (client, server) } else { (server, client) };
        from.write_all(MESSAGE).unwrap();
        store.wait_killed();
        Killed { from, to, store, config, _upstream: upstream, _port: port }
    }

    fn goes_on(&mut self, point: &str) {
        self.store.spawn(Setup::new(&self.config));
        assert_eq!(adopted(&self.store), (1, 1), "{point}: {:#?}", self.store.daemon().lines());
    }
}

#[test]
fn it_arrives_once_wherever_the_daemon_is_killed() {
    for (number, point) in POINTS.into_iter().enumerate() {
        for upwards in [true, false] {
            let mut killed = Killed::at(point, number as u32 % 3, upwards);
            killed.goes_on(point);
            let mut got = vec![0; MESSAGE.len()];
            killed.to.read_exact(&mut got).unwrap_or_else(|e| panic!("{point}, {upwards}: {e}"));
            assert_eq!(got, MESSAGE, "{point}");
            // Were anything sent twice, it would come before this.
            talk(&killed.to, &killed.from);
            talk(&killed.from, &killed.to);
        }
    }
}

#[test]
fn so_does_its_end_that_comes_while_nobody_runs() {
    for point in POINTS {
        let mut killed = Killed::at(point, 1, true);
        killed.from.write_all(b", and more").unwrap();
        killed.from.shutdown(Shutdown::Write).unwrap();
        killed.goes_on(point);
        let all = [MESSAGE, b", and more"].concat();
        assert_eq!(read_to_end(&killed.to), (all, Ended::Fin), "{point}");
    }
}

/// Then nobody can know what was read of it, and nobody would want it.
#[test]
fn a_reset_that_comes_meanwhile_is_passed_on_as_one() {
    for point in POINTS {
        let Killed { from, to, mut store, config, .. } = Killed::at(point, 1, true);
        reset(from);
        store.spawn(Setup::new(&config));
        let (got, end) = read_to_end(&to);
        assert_eq!(end, Ended::Reset, "{point}");
        assert!(got.is_empty() || got == MESSAGE, "{point}: {got:?}");
    }
}
