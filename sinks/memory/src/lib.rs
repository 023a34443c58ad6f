//! A sink in this process, for tests and for trying things out.
