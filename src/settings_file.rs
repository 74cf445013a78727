//! Files of settings, read whole, and never more of them than such a file may have: what a path names may be anything, also
//! a device without an end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// The largest file of certificates or keys, in bytes: all authorities that there are have some 200 kB.
pub const CERTIFICATES_BYTES: usize = 4 << 20;

/// UTF-8's.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads a file of at most `most` bytes. What was read is wiped from memory when it is dropped: it may hold a password.
///
/// # Errors
/// The file system's, and for a larger file one that names the bound.
pub fn read(path: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    read_opened(File::open(path)?, most)
}

/// The same for a file that is open.
///
/// # Errors
/// As [`read`].
pub fn read_opened(file: impl Read, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // A buffer that grows leaves what it held behind: ordinary files fit from the start.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most.min(64 << 10) + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than the {most} bytes that are read of such a file"),
        ));
    }
    // Editors on Windows put it before the text; it is no part of it.
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_such_a_file_may_have() {
        assert_eq!(read_opened(&b"1234"[..], 4).unwrap().as_slice(), b"1234");
        assert_eq!(read_opened(&b"\xef\xbb\xbf1"[..], 4).unwrap().as_slice(), b"1");
        let error = read_opened(&b"12345"[..], 4).unwrap_err();
        assert!(error.to_string().contains("more than the 4 bytes"), "{error}");
        assert!(read(Path::new("/dev/zero"), 1 << 20).is_err());
    }
}
