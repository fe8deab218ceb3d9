//! Arguments to options.
