//! The lines of an input, one at a time, within bounds: of a line's length, and, for clients that are not trusted, of time
//! for a line and of memory.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::room::{Held, Room};

/// What an event weighs besides its line, in bytes.
const EVENT: usize = 512;
/// The buffer that is kept from line to line, in bytes.
const KEPT: usize = 64 << 10;

/// Bounds for a client that is not trusted.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// What is held for all clients together, in bytes.
    pub memory: Arc<Semaphore>,
    /// How long a line may take to come, from its first byte on.
    pub line: Duration,
    /// How long to wait for memory.
    pub patience: Duration,
}

/// What reading came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Line,
    End,
    /// So many bytes are there to be read, and no room for them: give back what can be, then [`LineReader::make_room`].
    NoRoom(usize),
}

pub(crate) struct LineReader<I> {
    input: I,
    longest: usize,
    bounds: Option<(Bounds, Room)>,
    line: Vec<u8>,
    held: Held,
    /// Room taken beforehand, in bytes.
    credit: usize,
    complete: bool,
    begun: Option<Instant>,
}

impl<I: AsyncBufRead + Unpin> LineReader<I> {
    pub(crate) fn new(input: I, longest: usize, bounds: Option<Bounds>) -> Self {
        let bounds = bounds.map(|bounds| {
            let room = Room::new(bounds.memory.clone());
            (bounds, room)
        });
        LineReader {
            input,
            longest,
            bounds,
            line: Vec::new(),
            held: Held::default(),
            credit: 0,
            complete: false,
            begun: None,
        }
    }

    /// The line that was read last, without its end.
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }

    /// The room that the line takes, for whoever keeps what it says.
    pub(crate) fn take_held(&mut self) -> Held {
        std::mem::take(&mut self.held)
    }

    /// Reads a line. May be dropped while it waits; the next call goes on. A line beyond the limit is an error, so that an
    /// input without line ends cannot fill the memory.
    pub(crate) async fn next(&mut self) -> Result<Next, Error> {
        if std::mem::take(&mut self.complete) {
            self.line.clear();
            self.line.shrink_to(KEPT);
            self.held = Held::default();
            self.begun = None;
        }
        loop {
            let until = self.bounds.as_ref().zip(self.begun).map(|((bounds, _), begun)| begun + bounds.line);
            let buffer = match until {
                None => self.input.fill_buf().await?,
                Some(until) => tokio::time::timeout_at(until, self.input.fill_buf())
                    .await
                    .map_err(|_| Error::from(ErrorKind::TimedOut))??,
            };
            if buffer.is_empty() {
                self.complete = true;
                return Ok(if self.line.is_empty() { Next::End } else { Next::Line });
            }
            let end = memchr::memchr(b'\n', buffer);
            let taken = end.unwrap_or(buffer.len());
            if self.line.len() + taken > self.longest {
                let message = format!("a line has more than {} bytes", self.longest);
                return Err(Error::new(ErrorKind::InvalidData, message));
            }
            if let Some((_, room)) = &self.bounds {
                let weight = taken + if end.is_some() { EVENT } else { 0 };
                let owed = weight.saturating_sub(self.credit);
                match room.take(owed) {
                    Some(held) => self.held.add(held),
                    None => return Ok(Next::NoRoom(owed)),
                }
                self.credit = 0;
            }
            self.line.extend_from_slice(buffer.get(..taken).unwrap_or_default());
            self.input.consume(taken + usize::from(end.is_some()));
            self.begun = self.begun.or_else(|| Some(Instant::now()));
            if end.is_some() {
                self.complete = true;
                return Ok(Next::Line);
            }
        }
    }

    /// Waits for room.
    pub(crate) async fn make_room(&mut self, bytes: usize) -> Result<(), Error> {
        let Some((bounds, room)) = &self.bounds else { return Ok(()) };
        let held = room.wait(bytes, bounds.patience).await;
        self.held.add(held.ok_or_else(|| Error::from(ErrorKind::ResourceBusy))?);
        self.credit += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, BufReader};

    fn bounds(memory: usize) -> Option<Bounds> {
        let second = Duration::from_secs(1);
        Some(Bounds { memory: Arc::new(Semaphore::new(memory)), line: second, patience: second })
    }

    async fn read_all(text: &[u8], buffer: usize, bounds: Option<Bounds>) -> Result<Vec<Vec<u8>>, Error> {
        let mut reader = LineReader::new(BufReader::with_capacity(buffer, text), 100, bounds);
        let mut lines = Vec::new();
        loop {
            match reader.next().await? {
                Next::Line => lines.push(reader.line().to_vec()),
                Next::End => return Ok(lines),
                Next::NoRoom(bytes) => reader.make_room(bytes).await?,
            }
        }
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text_however_it_is_cut(
            text in prop::collection::vec(prop_oneof![3 => Just(b'x'), 1 => Just(b'\n')], 0..300),
            buffer in 1usize..50,
            bounded in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let read = runtime.block_on(read_all(&text, buffer, bounds(1 << 20).filter(|_| bounded)));
            let mut expected: Vec<_> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            match read {
                Ok(lines) => prop_assert_eq!(lines, expected),
                Err(_) => prop_assert!(expected.iter().any(|line| line.len() > 100)),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_does_not_end_is_given_up_and_a_quiet_input_is_not() {
        let (mut sender, receiver) = tokio::io::duplex(64);
        let mut reader = LineReader::new(BufReader::new(receiver), 100, bounds(1 << 20));
        assert!(tokio::time::timeout(Duration::from_secs(60), reader.next()).await.is_err());
        sender.write_all(b"a\nb").await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Next::Line);
        assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_waited_for_and_then_given_up() {
        let text = vec![b'x'; 20_000];
        let mut reader = LineReader::new(&text[..], 1 << 20, bounds(10_000));
        let Next::NoRoom(bytes) = reader.next().await.unwrap() else { panic!("there was room") };
        assert_eq!(reader.make_room(bytes).await.unwrap_err().kind(), ErrorKind::ResourceBusy);
    }
}
