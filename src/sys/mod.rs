//! The one home of system calls, and of `unsafe`.

pub mod clock;
