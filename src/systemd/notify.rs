//! The notify thread: the only one that talks to systemd, see sd_notify(3).

/// A handle on the notify thread. Cheap to clone; no call blocks.
#[derive(Clone)]
pub struct Notifier(());

impl Notifier {
    /// STATUS=, sent when the text changes, at most 5 a second, the last one always.
    pub fn status(&self, _text: impl Into<String>) {
        todo!()
    }
}
