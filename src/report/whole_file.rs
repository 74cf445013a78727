//! A file replaced as a whole: whoever reads it sees the old one or the new one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// For everybody to read, whatever the umask: a web server runs as another user.
const MODE: u32 = 0o644;

/// Writes a file beside it first, and gives that its name when all of it is on the disk.
///
/// # Errors
/// The file system's; then nothing has changed.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        // A pipe or /dev/stdout is written to, not replaced.
        return OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes());
    }
    // A link stays a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let mut fresh = std::ffi::OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".{:016x}.tmp", RandomState::new().hash_one(std::process::id())));
    let fresh = path.with_file_name(fresh);
    let written = write(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
    if written.is_err() {
        let _most_likely_never_made = fs::remove_file(&fresh);
    }
    written
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
