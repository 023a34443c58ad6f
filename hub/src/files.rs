//! Open files: each connection is one, and the usual limit of a process is far below what a gateway serves.

/// What a hub needs besides the gateway's connections: the log, the stores, standard streams.
const REST: u64 = 256;

/// Raises this process's limit of open files, as far as it may, to what so many connections need; how many can be served.
pub(crate) fn room_for(connections: usize) -> usize {
    let needed = (connections as u64).saturating_add(REST);
    match rlimit::increase_nofile_limit(needed) {
        Ok(limit) if limit >= needed => connections,
        Ok(limit) => {
            let served = usize::try_from(limit.saturating_sub(REST)).unwrap_or(connections).max(16);
            tracing::warn!(
                "this process may open {limit} files: {served} connections are served at once, not the {connections} of \
                 gateway.max_connections; raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd) to {needed}"
            );
            served
        }
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be read");
            connections
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hard_limit_does_not_allow_is_not_promised() {
        assert_eq!(room_for(10), 10);
        let (_, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
        if let Ok(hard) = usize::try_from(hard)
            && let Some(more) = hard.checked_add(1_000_000)
        {
            assert_eq!(room_for(more), (hard - REST as usize).max(16));
        }
    }
}
