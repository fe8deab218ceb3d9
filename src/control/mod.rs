//! drainctl's socket: a thread that answers JSON lines.
