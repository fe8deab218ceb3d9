//! What the tests share.

pub mod container;
pub mod image;
pub mod peers;
