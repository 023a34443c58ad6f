//! The log in one SQLite file: for one machine, with group commit.
