//! The write API: a library and its HTTP gateway.
