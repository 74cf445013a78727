//! A text that must never be shown.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// A password or token: no `Display`, a redacted `Debug`; all clones share one copy, which is wiped from memory with the
/// last of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes the text over; the caller keeps no copy.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// Several texts as one, put together without a copy that would be left behind.
    #[must_use]
    pub fn joined(parts: &[&str]) -> Self {
        let mut text = String::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| text.push_str(part));
        Self::new(text)
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_text() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn nothing_is_left_in_memory_where_a_secret_was() {
        use std::io::{Read, Seek, SeekFrom};
        let secret = Secret::joined(&["Bearer ", "hunter2-hunter2-hunter2-hunter2"]);
        let (place, length) = (secret.reveal().as_ptr() as u64, secret.reveal().len());
        let mut memory = std::fs::File::open("/proc/self/mem").unwrap();
        let mut read = || {
            let mut bytes = vec![0; length];
            memory.seek(SeekFrom::Start(place)).and_then(|_| memory.read_exact(&mut bytes)).unwrap();
            bytes
        };
        assert_eq!(read(), secret.reveal().as_bytes(), "this is where it is");
        drop(secret);
        // The allocator writes its own notes there; of the text there is nothing.
        assert!(!read().windows(7).any(|piece| piece == b"hunter2"));
    }
}
