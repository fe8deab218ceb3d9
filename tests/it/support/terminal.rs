//! A terminal that a test owns: a program runs on it, and the test reads what stands on its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use vt100::{Color, Parser};

use super::SOON;

/// A program on a terminal of its own. Killed when dropped.
pub struct Terminal {
    child: Child,
    keys: File,
    /// The program's side. Held, so that the screen lives until the test has seen it.
    side: OwnedFd,
    before: Termios,
    screen: Arc<(Mutex<Parser>, Condvar)>,
}

impl Terminal {
    /// Starts the command with the arguments that it has.
    pub fn start(command: &[&str], environment: &[(&str, &str)], (width, height): (u16, u16)) -> Terminal {
        super::tell_failures();
        let ends = openpty(&size(width, height), None).unwrap();
        let before = tcgetattr(&ends.slave).unwrap();
        let side = || ends.slave.try_clone().unwrap();
        // In a session of its own, whose terminal it is: it is told of a new size.
        let mut program = Command::new("setsid");
        program.arg("--ctty").args(command).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        program.envs(environment.iter().copied());
        let child = program.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let screen = Arc::new((Mutex::new(Parser::new(some(height), some(width), 0)), Condvar::new()));
        let (written, shown) = (File::from(ends.master.try_clone().unwrap()), screen.clone());
        std::thread::spawn(move || show(written, &shown));
        Terminal { child, keys: ends.master.into(), side: ends.slave, before, screen }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn resize(&mut self, width: u16, height: u16) {
        self.parser().screen_mut().set_size(some(height), some(width));
        let words = ["cols", &width.to_string(), "rows", &height.to_string()];
        let resized = Command::new("stty").args(words).stdin(self.side.try_clone().unwrap()).status();
        assert!(resized.expect("stty is needed for a new size").success());
    }

    /// Waits until the text on the screen is as wanted, and returns it.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let (mut parser, bound) = (self.parser(), Instant::now() + SOON);
        loop {
            let text = parser.screen().contents();
            if wanted(&text) {
                return text;
            }
            let left = bound.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: it shows\n{text}");
            parser = self.screen.1.wait_timeout(parser, left).unwrap().0;
        }
    }

    /// Whether something stands there in a colour.
    pub fn has_colours(&self) -> bool {
        let parser = self.parser();
        let (height, width) = parser.screen().size();
        let mut cells = (0..height.get()).flat_map(|y| (0..width.get()).map(move |x| (y, x)));
        cells.any(|(y, x)| parser.screen().cell(y, x).is_some_and(|cell| cell.fgcolor() != Color::Default))
    }

    /// Waits for the end, at which the terminal must be as it was. Returns what stands there.
    pub fn wait_end(mut self) -> (ExitStatus, String) {
        let bound = Instant::now() + SOON;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < bound, "it runs on: {}", self.parser().screen().contents()),
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        // What it wrote last is on its way still.
        File::from(self.side.try_clone().unwrap()).write_all(b"[the end]").unwrap();
        let text = self.wait("the end", |text| text.contains("[the end]"));
        assert_eq!(tcgetattr(&self.side).unwrap(), self.before, "{status:?}: the terminal's modes");
        let parser = self.parser();
        assert!(!parser.screen().alternate_screen(), "{status:?}: still the other screen: {text}");
        assert!(!parser.screen().hide_cursor(), "{status:?}: the cursor is hidden");
        drop(parser);
        (status, text)
    }

    fn parser(&self) -> MutexGuard<'_, Parser> {
        self.screen.0.lock().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn some(length: u16) -> NonZero<u16> {
    NonZero::new(length).expect("a terminal has a size")
}

fn size(width: u16, height: u16) -> Winsize {
    Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 }
}

fn show(mut written: File, (parser, changed): &(Mutex<Parser>, Condvar)) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = written.read(&mut bytes) {
        parser.lock().unwrap().process(&bytes[..n]);
        changed.notify_all();
    }
}
