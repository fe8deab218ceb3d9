//! A terminal that a test owns: a program runs on it, and the test reads what stands on its screen.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
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
    hung_up: Arc<AtomicBool>,
}

impl Terminal {
    /// Starts the command with the arguments that it has.
    pub fn start(command: &[&str], environment: &[(&str, &str)], (width, height): (u16, u16)) -> Terminal {
        super::tell_failures();
        let (master, slave) = open();
        resize(&slave, width, height);
        let before = tcgetattr(&slave).unwrap();
        let side = || slave.try_clone().unwrap();
        // In a session of its own, whose terminal it is: it is told of a new size.
        let mut program = Command::new("setsid");
        program.arg("--ctty").args(command).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        program.envs(environment.iter().copied());
        let child = program.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let screen = Arc::new((Mutex::new(Parser::new(some(height), some(width), 0)), Condvar::new()));
        let (written, shown) = (master.try_clone().unwrap(), screen.clone());
        let hung_up = Arc::new(AtomicBool::new(false));
        let gone = hung_up.clone();
        std::thread::spawn(move || show(written, &shown, &gone));
        Terminal { child, keys: master, side: slave.into(), before, screen, hung_up }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn resize(&mut self, width: u16, height: u16) {
        self.parser().screen_mut().set_size(some(height), some(width));
        resize(&self.side, width, height);
    }

    /// The terminal goes away, as when the connection that it comes by ends, after a last key, to which the program
    /// must write something. Returns how it ended then.
    pub fn hang_up(mut self, key: &str) -> ExitStatus {
        // Its end that is not the program's is held here and by the thread that reads, which leaves after the next
        // thing that the program writes.
        self.hung_up.store(true, SeqCst);
        self.press(key);
        self.keys = File::open("/dev/null").unwrap();
        self.child_end()
    }

    fn child_end(&mut self) -> ExitStatus {
        let bound = Instant::now() + SOON;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < bound, "it runs on: {}", self.parser().screen().contents()),
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
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
        let status = self.child_end();
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

/// Our end and the program's. No other program gets them: whoever has ours keeps the terminal from hanging up.
fn open() -> (File, File) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let mut slave = OpenOptions::new();
    slave.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let slave = slave.open(ptsname_r(&master).unwrap()).unwrap();
    (OwnedFd::from(master).into(), slave)
}

fn resize(side: &impl AsFd, width: u16, height: u16) {
    let words = ["cols", &width.to_string(), "rows", &height.to_string()];
    let side = side.as_fd().try_clone_to_owned().unwrap();
    let resized = Command::new("stty").args(words).stdin(side).status();
    assert!(resized.expect("stty is needed for the size").success());
}

fn show(mut written: File, (parser, changed): &(Mutex<Parser>, Condvar), hung_up: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = written.read(&mut bytes) {
        parser.lock().unwrap().process(&bytes[..n]);
        changed.notify_all();
        if hung_up.load(SeqCst) {
            return;
        }
    }
}
