//! The log: slog-async feeding journald, or human-readable lines on a terminal.

use std::time::Duration;

use slog::{Level, Logger};

/// Ends the log thread; see [`LogThread::flush`].
pub struct LogThread(());

/// Opens the log: journald where standard error is the journal ($JOURNAL_STREAM), else lines on stderr.
pub fn open(_level: Level) -> (Logger, LogThread) {
    todo!()
}

impl LogThread {
    /// Waits until everything logged so far is written, at most `bound`. True if it was.
    pub fn flush(self, _bound: Duration) -> bool {
        todo!()
    }
}
