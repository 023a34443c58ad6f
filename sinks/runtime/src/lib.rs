//! Workers: delivery from the log to one sink, with retry, dead letters and fencing.
