//! The one home of system calls, and of `unsafe`.
