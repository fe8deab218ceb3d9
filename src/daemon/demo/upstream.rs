//! The service behind the daemon in the demo: a thread a connection, blocking sockets.
//!
//! It knows nothing of a drain: it answers, and ends a connection when its client has.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::{Error, Result};

use super::pattern::{self, Request};

/// The listening service. Its threads end with the process.
pub struct Upstream {
    address: SocketAddr,
}

impl Upstream {
    /// Starts the service on a port of 127.0.0.1 that the system chooses.
    pub fn start() -> Result<Upstream> {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            thread::Builder::new().name("upstream".into()).spawn(move || accept(&listener))?;
            Ok(Upstream { address })
        };
        listen().map_err(|e: io::Error| Error::system("start the demo's service", e))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn accept(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // A client that can't be served sees its connection close; the show tells it as a fault.
        let _ = thread::Builder::new().name("upstream".into()).spawn(move || serve(stream));
    }
}

/// Serves one connection; an error of the network ends it.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(request) = Request::read(&mut stream)? {
        match request {
            Request::Ask { delay_ms } => {
                thread::sleep(Duration::from_millis(delay_ms));
                stream.write_all(pattern::payload(0, Request::ANSWER))?;
            }
            Request::Download { total, rate } => {
                pattern::send(&mut stream, total, rate, |_| ())?;
                stream.shutdown(Shutdown::Write)?;
            }
            Request::Upload { total } => {
                if pattern::receive(&mut stream, total, |_| ())? {
                    stream.write_all(pattern::payload(0, Request::ANSWER))?;
                }
            }
        }
    }
    Ok(())
}
