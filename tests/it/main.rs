//! The one integration binary: the programs and the library from outside, a module a topic.
//!
//! What needs no second process and no socket is tested inside its module under src/. Helpers
//! that several topics share are in `support`.

mod cli;
mod control;
mod generated;
mod support;
