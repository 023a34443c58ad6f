//! Rebuilding a store from the log: plan, shadow generation, swap, repair.
