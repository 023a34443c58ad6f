//! Stores that speak the Redis protocol.
