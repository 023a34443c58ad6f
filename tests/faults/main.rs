//! Faults on real servers that are no mere crash: frozen workers, rolling restarts, bad networks, full disks, a log that
//! lost something, and what a receipt is worth. The tests measure and kill, so they run one after the other.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

mod clock;
mod disk;
mod isolation;
mod rebuild;
mod receipts;
mod scene;
mod worlds;
mod zombies;
