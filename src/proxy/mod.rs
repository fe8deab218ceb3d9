//! The proxy: listeners, workers, relays.
