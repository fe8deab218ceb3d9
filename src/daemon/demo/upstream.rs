//! The service behind the daemon in the demo: a thread a connection, blocking sockets.
//!
//! It knows nothing of a drain or a restart: it answers, and ends a connection when its client has. Of
//! streams without a length of their own it keeps count, so that nothing can be missing at their end.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::{Error, Result};

use super::pattern::{self, Request};

/// The listening service. Its threads end with the process.
pub struct Upstream {
    address: SocketAddr,
    count: Arc<Count>,
}

/// What it has done for [`Request::Listen`] and [`Request::Tell`].
pub struct Count {
    /// The streams are to end.
    pub over: AtomicBool,
    /// So many bytes it has sent or received of each stream. A piece is counted once it is through.
    pub streams: Vec<AtomicU64>,
}

impl Count {
    /// Of one stream.
    pub fn of(&self, stream: usize) -> u64 {
        self.streams.get(stream).map_or(0, |bytes| bytes.load(Relaxed))
    }

    fn add(&self, stream: u64, bytes: u64) {
        self.streams.get(stream as usize).iter().for_each(|sum| _ = sum.fetch_add(bytes, Relaxed));
    }
}

impl Upstream {
    /// Starts the service on a port of 127.0.0.1 that the system chooses, to count so many streams.
    pub fn start(streams: usize) -> Result<Upstream> {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            let streams = std::iter::repeat_with(AtomicU64::default).take(streams).collect();
            let count = Arc::new(Count { over: AtomicBool::default(), streams });
            let counts = count.clone();
            thread::Builder::new().name("upstream".into()).spawn(move || accept(&listener, &counts))?;
            Ok(Upstream { address, count })
        };
        listen().map_err(|e: io::Error| Error::system("start the demo's service", e))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn count(&self) -> &Arc<Count> {
        &self.count
    }
}

fn accept(listener: &TcpListener, count: &Arc<Count>) {
    for stream in listener.incoming().flatten() {
        // A client that can't be served sees its connection close; the show tells it as a fault.
        let count = count.clone();
        let _ = thread::Builder::new().name("upstream".into()).spawn(move || serve(stream, &count));
    }
}

/// Serves one connection; an error of the network ends it.
fn serve(mut stream: TcpStream, count: &Count) -> io::Result<()> {
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
            Request::Listen { stream: number, rate } => {
                pattern::send_while(&mut stream, u64::MAX, rate, |n| {
                    count.add(number, n);
                    !count.over.load(Relaxed)
                })?;
                stream.shutdown(Shutdown::Write)?;
            }
            Request::Tell { stream: number } => {
                if pattern::receive_to_end(&mut stream, |n| count.add(number, n))? {
                    stream.write_all(pattern::payload(0, Request::ANSWER))?;
                }
            }
        }
    }
    Ok(())
}
