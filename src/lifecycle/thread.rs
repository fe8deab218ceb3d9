//! Threads: a name, an error where the system refuses one, and panics contained.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Error, Result};

/// Starts a thread. It inherits the blocked signals.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    // The kernel shows the first 15 bytes of a name; a zero byte cannot be in one.
    let builder = std::thread::Builder::new().name(name.replace('\0', "?"));
    builder.spawn(work).map(drop).map_err(|e| Error::system(format!("start the thread {name}"), e))
}

/// Calls `work`; a panic becomes its text.
pub(super) fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("panicked: {}", text(panic.as_ref())))
}

/// Calls `work`; a panic or an error becomes its text.
pub(super) fn contain_result(work: impl FnOnce() -> Result<()>) -> Result<(), String> {
    contain(work)?.map_err(|e| e.to_string())
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
