//! Comparing a store with the log.
