//! `drainctl top`: the daemon, its proxies and its connections on the whole terminal, each second anew.
//!
//! One thread draws, and does it only when something happened. What happens comes to it through a channel:
//! the daemon's answers, keys and sizes, signals, each from a thread of its own. Invariant: on every way out
//! the terminal is left as it was found.

mod asking;
mod model;
mod page;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use ratatui::crossterm::{cursor, execute, terminal};

use self::model::{Step, Told, Top};
use super::paint;
use crate::{Error, Exit, Result, fault};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a key.
    Quit,
    /// By a signal, which the process is to end by once it has nothing left to do.
    Signal(i32),
}

/// How long after an error of the terminal its SIGHUP may come.
const HANGS_UP: Duration = Duration::from_millis(500);

/// What the one who draws is told.
enum Happening {
    Told(Result<Box<Told>>),
    /// What became of a drain.
    Drained(String),
    Input(Input),
    Signal(Signal),
    /// The thread that told of these has ended.
    Lost(&'static str),
}

/// Told when a thread ends, also by a panic.
struct Leaving(Sender<Happening>, &'static str);

impl Drop for Leaving {
    fn drop(&mut self) {
        // Nobody listens any more where the whole ends.
        let _ = self.0.send(Happening::Lost(self.1));
    }
}

/// Shows what the daemon that listens on `socket` tells, until a key or a signal ends it.
///
/// # Errors
/// Exit 64 where there is no terminal to show it on, 69 where no daemon answers at first, 71 where the
/// terminal fails.
pub fn run(socket: &Path, json: bool) -> Result<Ended> {
    refuse_without_terminal(json)?;
    let mut top = Top::default();
    top.told(asking::ask(socket, &top.query())?);
    let signals = watch_signals()?;
    let (tell, happenings) = mpsc::channel();
    let screen = Screen::open()?;
    let asking = start_threads(socket, signals, &tell)?;
    let keeper = Keeper { socket: socket.to_path_buf(), tell, asking };
    keeper.show(screen, top, &happenings)
}

fn refuse_without_terminal(json: bool) -> Result<()> {
    let why = if json {
        "top prints no JSON"
    } else if !io::stdout().is_terminal() {
        "top needs a terminal, and standard output is none"
    } else if paint::is_dumb() {
        "top needs a terminal that can do more than print lines, and TERM says that this one cannot"
    } else {
        return Ok(());
    };
    let instead = "use drainctl status and drainctl connections, with --json for programs";
    Err(Error::new(Exit::Usage, format!("{why}: {instead}")))
}

/// Signals that would end the process with the terminal as it is, and the one after which others may have
/// changed it. Threads that start later have them blocked too.
fn watch_signals() -> Result<SignalFd> {
    let ending = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCONT];
    let set: SigSet = ending.into_iter().collect();
    set.thread_block().map_err(|e| Error::system("blocking signals", e))?;
    SignalFd::new(&set).map_err(|e| Error::system("making a signalfd", e))
}

/// Returns where to say what is to be asked from now on.
fn start_threads(
    socket: &Path,
    signals: SignalFd,
    tell: &Sender<Happening>,
) -> Result<Sender<super::connections::Query>> {
    let start = |name: &'static str, work: Box<dyn FnOnce() + Send>| {
        let leaving = Leaving(tell.clone(), name);
        let run = move || {
            let _leaving = leaving;
            work();
        };
        let started = thread::Builder::new().name(name.to_owned()).spawn(run).map(drop);
        started.map_err(|e| Error::system("cannot start a thread", e))
    };
    let (ask, asked) = mpsc::channel();
    let (path, to) = (socket.to_path_buf(), tell.clone());
    start(
        "the daemon's answers",
        Box::new(move || {
            asking::ask_again_and_again(&path, &asked, |told| to.send(Happening::Told(told)).is_ok());
        }),
    )?;
    let to = tell.clone();
    start(
        "signals",
        Box::new(move || {
            while let Ok(Some(signal)) = signals.read_signal() {
                let Ok(signal) = Signal::try_from(signal.ssi_signo as i32) else { continue };
                if to.send(Happening::Signal(signal)).is_err() {
                    return;
                }
            }
        }),
    )?;
    let to = tell.clone();
    start(
        "keys",
        Box::new(move || {
            while let Ok(input) = event::read() {
                if to.send(Happening::Input(input)).is_err() {
                    return;
                }
            }
        }),
    )?;
    Ok(ask)
}

/// The terminal while it is ours. Its own drop would tell on standard error that it cannot show the cursor, and
/// panic where that has gone with the terminal: so it is left out.
struct Screen(ManuallyDrop<DefaultTerminal>);

impl Screen {
    /// A panic on any thread gives the terminal back first.
    fn open() -> Result<Screen> {
        let open = || {
            let mut terminal = ratatui::try_init()?;
            terminal.hide_cursor()?;
            Ok(Screen(ManuallyDrop::new(terminal)))
        };
        open().map_err(|e: io::Error| {
            ratatui::restore();
            Error::system("cannot use the terminal", e)
        })
    }

    /// The process was stopped, and the shell may have had the terminal meanwhile.
    fn take_back(&mut self) -> io::Result<()> {
        terminal::disable_raw_mode()?;
        terminal::enable_raw_mode()?;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        // Not clear(): it asks the terminal where the cursor is, and the answer would come as keys.
        let size = self.0.size()?;
        self.0.resize(size.into())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = execute!(io::stdout(), cursor::Show);
        let _ = ratatui::try_restore();
    }
}

/// What a step needs that is not of the screen.
struct Keeper {
    socket: PathBuf,
    tell: Sender<Happening>,
    asking: Sender<super::connections::Query>,
}

impl Keeper {
    /// A terminal that goes takes the program along by SIGHUP, which may come after its first error.
    fn show(&self, screen: Screen, top: Top, happenings: &Receiver<Happening>) -> Result<Ended> {
        self.show_until_it_fails(screen, top, happenings).or_else(|error| {
            let until = Instant::now() + HANGS_UP;
            while let Ok(happening) = happenings.recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                if matches!(happening, Happening::Signal(Signal::SIGHUP)) {
                    return Ok(Ended::Signal(Signal::SIGHUP as i32));
                }
            }
            Err(error)
        })
    }

    fn show_until_it_fails(
        &self,
        mut screen: Screen,
        mut top: Top,
        happenings: &Receiver<Happening>,
    ) -> Result<Ended> {
        let failed = |e| Error::system("cannot write to the terminal", e);
        let has_colours = paint::wanted();
        let mut count = 0;
        loop {
            screen.0.draw(|frame| view::draw(frame, &mut top, has_colours)).map_err(failed)?;
            // Never without one: a sender of it is held here.
            let Ok(first) = happenings.recv() else { return Ok(Ended::Quit) };
            for happening in std::iter::once(first).chain(happenings.try_iter()) {
                count += 1;
                fault::strike("top-panic", Some(count));
                let step = match happening {
                    Happening::Told(Ok(told)) => top.told(*told),
                    Happening::Told(Err(error)) => top.gone(error.to_string()),
                    Happening::Drained(note) => top.note(note),
                    Happening::Input(Input::Key(key)) if key.kind != KeyEventKind::Release => top.key(key),
                    Happening::Input(_) => Step::Stay,
                    Happening::Signal(Signal::SIGCONT) => Step::Redraw,
                    Happening::Signal(signal) => return Ok(Ended::Signal(signal as i32)),
                    Happening::Lost(what) => {
                        return Err(Error::new(Exit::Software, format!("top has lost {what}")));
                    }
                };
                match step {
                    Step::Stay => {}
                    Step::Redraw => screen.take_back().map_err(failed)?,
                    // Where the other end is gone it has told so.
                    Step::Ask => drop(self.asking.send(top.query())),
                    Step::Drain { proxy, upstream } => self.drain(proxy, upstream),
                    Step::Quit => return Ok(Ended::Quit),
                }
            }
        }
    }

    /// On a thread of its own: the screen goes on.
    fn drain(&self, proxy: String, upstream: String) {
        let (socket, tell) = (self.socket.clone(), self.tell.clone());
        let work = move || {
            let note = asking::drain(&socket, proxy, upstream);
            // Nobody listens any more where the whole has ended.
            let _ = tell.send(Happening::Drained(note));
        };
        if let Err(error) = thread::Builder::new().name("drain".to_owned()).spawn(work) {
            let note = format!("nothing is drained: cannot start a thread: {error}");
            let _ = self.tell.send(Happening::Drained(note));
        }
    }
}
