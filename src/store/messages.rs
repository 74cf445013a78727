//! What a server sends, followed by the headers of its messages: none may be too long, and no answer as a whole. Otherwise
//! the driver would keep all of it in memory.

use std::io;

/// The longest message: a row, most of all. The longest of ours has a record of 256 KiB.
pub(crate) const MESSAGE_BYTES: u64 = 64 << 20;
/// The longest answer to one statement, with what the driver needs for each of its messages.
pub(crate) const ANSWER_BYTES: u64 = 512 << 20;
/// What the driver needs for a message in memory, beside its bytes.
const MESSAGE_OVERHEAD: u64 = 128;
/// Notifications and parameters that were not asked for: the driver keeps them as long as the connection lasts.
pub(crate) const ASIDE_BYTES: u64 = 1 << 20;

const READY_FOR_QUERY: u8 = b'Z';
const BACKEND_KEY_DATA: u8 = b'K';
const NOTIFICATION: u8 = b'A';
const PARAMETER_STATUS: u8 = b'S';

/// Follows one connection's messages.
#[derive(Default)]
pub(super) struct Messages {
    /// The header of the message that comes next, as far as it has come: its kind, and its length in four bytes.
    header: [u8; 5],
    known: usize,
    /// The bytes of the message's body that are still to come.
    left: u64,
    /// Since the server was last ready for a question.
    answer: u64,
    asides: u64,
    /// The first bytes of the message that names the server's process.
    backend: Vec<u8>,
}

impl Messages {
    /// Follows these bytes.
    ///
    /// # Errors
    /// When they are more than agreed; then they must not be read.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(&next) = bytes.first() {
            if self.left == 0 && self.known < self.header.len() {
                self.header[self.known] = next;
                self.known += 1;
                bytes = &bytes[1..];
                if self.known == self.header.len() {
                    self.begin()?;
                }
            } else {
                let here = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if self.header[0] == BACKEND_KEY_DATA && self.backend.len() < 4 {
                    self.backend.extend(bytes[..here].iter().take(4 - self.backend.len()));
                }
                self.left -= here as u64;
                bytes = &bytes[here..];
            }
            if self.known == self.header.len() && self.left == 0 {
                self.known = 0;
            }
        }
        Ok(())
    }

    /// The server's process, once it has told.
    pub(super) fn take_backend(&mut self) -> Option<i32> {
        let bytes: [u8; 4] = self.backend[..].try_into().ok()?;
        self.backend.clear();
        Some(i32::from_be_bytes(bytes))
    }

    fn begin(&mut self) -> io::Result<()> {
        let [kind, length @ ..] = self.header;
        // It counts itself.
        let length = u64::from(u32::from_be_bytes(length));
        self.left = length.saturating_sub(4);
        if length > MESSAGE_BYTES {
            return Err(too_much(&format!("a message of {length} bytes (is it a Postgres?)")));
        }
        match kind {
            READY_FOR_QUERY => self.answer = 0,
            _ => self.answer += length + MESSAGE_OVERHEAD,
        }
        if matches!(kind, NOTIFICATION | PARAMETER_STATUS) {
            self.asides += length + MESSAGE_OVERHEAD;
        }
        if self.answer > ANSWER_BYTES {
            return Err(too_much(&format!("more than {} MiB for one answer", ANSWER_BYTES >> 20)));
        }
        if self.asides > ASIDE_BYTES {
            let message = format!("more than {} MiB that nobody asked for", ASIDE_BYTES >> 20);
            return Err(too_much(&message));
        }
        Ok(())
    }
}

fn too_much(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sends {what}: the connection was left"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    fn repeated(kind: u8, length: u32, until: u64) -> io::Result<()> {
        let mut messages = Messages::default();
        let body = vec![0; length as usize];
        let message = message(kind, &body);
        for _ in 0..until / message.len() as u64 {
            messages.follow(&message)?;
        }
        Ok(())
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_header_alone() {
        let header = [b'D', 0x7f, 0xff, 0xff, 0xff];
        assert!(Messages::default().follow(&header[..4]).is_ok());
        assert!(Messages::default().follow(&header).is_err());
    }

    #[test]
    fn rows_without_an_end_notices_and_notifications_are_refused() {
        assert!(repeated(b'D', 60 << 20, ANSWER_BYTES - MESSAGE_BYTES).is_ok());
        assert!(repeated(b'D', 60 << 20, ANSWER_BYTES + MESSAGE_BYTES).is_err());
        assert!(repeated(b'N', 1 << 20, 2 * ANSWER_BYTES).is_err());
        for kind in [NOTIFICATION, PARAMETER_STATUS] {
            assert!(repeated(kind, 100, 2 * ASIDE_BYTES).is_err());
        }
    }

    #[test]
    fn answers_without_number_are_read() {
        let mut messages = Messages::default();
        let answer = [message(b'D', &vec![0; 60 << 20]), message(READY_FOR_QUERY, b"I")].concat();
        for _ in 0..20 {
            messages.follow(&answer).unwrap();
        }
    }

    proptest! {
        #[test]
        fn it_is_the_same_however_the_bytes_are_cut(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)), 0..20),
            pieces in prop::collection::vec(1_usize..9, 1..50),
            backend: i32,
        ) {
            let mut all: Vec<u8> = bodies.iter().filter(|(kind, _)| *kind != BACKEND_KEY_DATA)
                .flat_map(|(kind, body)| message(*kind, body)).collect();
            all.extend(message(BACKEND_KEY_DATA, &[backend.to_be_bytes(), [1; 4]].concat()));
            let (mut messages, mut rest) = (Messages::default(), &all[..]);
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                messages.follow(now).unwrap();
                rest = later;
            }
            prop_assert_eq!(messages.known, 0);
            prop_assert_eq!(messages.take_backend(), Some(backend));
        }

        #[test]
        fn nonsense_makes_it_panic_never(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _refused = Messages::default().follow(&bytes);
        }
    }
}
