//! Where spans go: the end of a file, or a pipe.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::named;
use crate::report::whole_file::{is_trusted_owner, refuse_foreign_link};

/// Whether it is a pipe, whose opening waits for a reader.
pub(super) fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// The file's end.
pub(super) struct Out {
    pub path: PathBuf,
    file: File,
    /// The file ends within a line: of a process that was killed, or after a failure.
    torn: bool,
    warned: bool,
}

impl Out {
    /// Opens it, or creates a file for its owner alone. A pipe is opened when somebody reads it, and not before.
    pub fn open(path: &Path) -> io::Result<Self> {
        refuse_foreign_link(path)?;
        let mut options = OpenOptions::new();
        match is_pipe(path) {
            true => options.write(true),
            false => options.read(true).append(true).create(true).mode(0o600),
        };
        let mut file = options.open(path)?;
        let found = file.metadata()?;
        // Asked of the opened file. One that somebody else has put there, as anybody may in /tmp, is his to read.
        if found.is_file() && !is_trusted_owner(path, found.uid()) {
            return Err(io::Error::other(format!(
                "it belongs to somebody else (user id {}), who could read them",
                found.uid()
            )));
        }
        let torn = found.is_file() && ends_within_a_line(&mut file)?;
        Ok(Self { path: path.to_owned(), file, torn, warned: false })
    }

    /// Writes whole lines. What goes wrong is said once.
    pub fn append(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let mut text = text;
        let ended;
        if self.torn {
            ended = [b"\n", text].concat();
            text = &ended;
        }
        match self.file.write_all(text) {
            Ok(()) => self.torn = false,
            Err(error) => {
                // How much of it is there, nobody knows; a line break too many does no harm.
                self.torn = true;
                if !self.warned {
                    self.warned = true;
                    log::warn!(
                        "{}: cannot be written to, spans are missing: {error}; make room there or name another file; the sync itself is not affected",
                        named(&self.path)
                    );
                }
            }
        }
    }
}

fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
