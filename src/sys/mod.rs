//! The one home of system calls, and of `unsafe`.
//!
//! Above this row there are only `OwnedFd` and `BorrowedFd`, never raw integers. What nix wraps
//! safely is used from nix directly; here stands what it doesn't, or wraps at a cost.

pub mod bounce;
pub mod clock;
pub mod counts;
pub mod ends;
pub mod handshakes;
pub mod limits;
pub mod memory;
mod option;
pub mod pass;
pub(crate) mod passed;
pub mod pipe;
pub mod rights;
pub mod socket;
