//! The proxy: listeners, workers, relays, and the drain of protocol `tcp`.

mod drain;
mod flow;
mod pipes;
mod proxy_protocol;
mod seeded;
mod slab;
mod stats;
mod timers;
mod upstream;
