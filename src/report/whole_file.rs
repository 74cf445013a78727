//! A file replaced as a whole: whoever reads it sees the old one or the new one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// A file that was to become another and is older belongs to a process that was killed: writing takes moments …
const STALE: Duration = Duration::from_secs(600);
/// … and so does one that is a little older and not locked.
const UNLOCKED: Duration = Duration::from_secs(10);
/// For everybody to read, whatever the umask: a collector or a web server runs as another user.
const MODE: u32 = 0o644;

/// In a folder that all may write to, such as `/tmp`, a link may be somebody else's trap. Linux' own rule
/// (`fs.protected_symlinks`), which holds for opening a file, but not for finding out what a link points to.
///
/// # Errors
/// When the path is a link that belongs neither to this process's user, nor to root, nor to the folder's owner.
pub(super) fn refuse_foreign_link(path: &Path) -> io::Result<()> {
    let Ok(link) = fs::symlink_metadata(path) else { return Ok(()) };
    if !link.is_symlink() || is_owner_trusted(folder_of(path), link.uid()) {
        return Ok(());
    }
    Err(io::Error::other("it is a link that belongs to somebody else, and is not followed"))
}

/// Whether what is at this path, behind all links, belongs to somebody who is trusted with it: as for links.
pub(super) fn is_trusted_owner(path: &Path, owner: u32) -> bool {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    is_owner_trusted(folder_of(&path), owner)
}

fn is_owner_trusted(folder: &Path, owner: u32) -> bool {
    let owner_of = |path: &Path| fs::metadata(path).map(|about| about.uid()).ok();
    [Some(0), owner_of(Path::new("/proc/self")), owner_of(folder)].contains(&Some(owner))
}

/// The folder in which it is.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file beside it first, and gives that its name when all of it is on the disk.
///
/// # Errors
/// The file system's; the file is as it was then.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    refuse_foreign_link(path)?;
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        // A pipe or a terminal is written to, not replaced.
        return OpenOptions::new().write(true).open(path)?.write_all(text);
    }
    // A link stays a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let folder = folder_of(&path);
    remove_stale(folder, name);
    let fresh = folder.join(fresh_name(name));
    // Locked until it has its name.
    let written = write_whole(&fresh, text).and_then(|file| fs::rename(&fresh, &path).map(|()| file));
    if let Err(error) = written {
        let _most_likely_never_made = fs::remove_file(&fresh);
        return Err(error);
    }
    // The name is on the disk too; a folder that cannot be synced still has it.
    let _not_everywhere = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Writes a file that is not there yet, and locks it: as long as it is, its process lives.
fn write_whole(path: &Path, text: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    let _not_everywhere = file.try_lock();
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text)?;
    file.sync_all()?;
    Ok(file)
}

/// `.NAME.….tmp`: nothing that a collector of `*.prom` would read.
fn fresh_name(name: &OsStr) -> OsString {
    let mut fresh = prefix(name);
    fresh.push(format!("{:016x}.tmp", RandomState::new().hash_one(std::process::id())));
    fresh
}

fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Tidies up after processes that were killed while they wrote.
fn remove_stale(folder: &Path, name: &OsStr) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let prefix = prefix(name);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let bytes = name.as_encoded_bytes();
        let ours = bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(b".tmp");
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
        let unlocked = || File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if ours && age.is_some_and(|age| age > STALE || (age > UNLOCKED && unlocked())) {
            let _somebody_else_did = fs::remove_file(entry.path());
        }
    }
}
