//! Programs that a test wants beside it, from the distribution's packages, without installing them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program's path, and where the libraries lie that came with it; nothing, with a line that says so, when it is not to be
/// had on this machine.
pub fn unpacked(program: &str, package: &str) -> Option<(PathBuf, Vec<PathBuf>)> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/unpacked.sh");
    let found =
        Command::new("bash").arg(script).args([program, package]).arg(&folder).output().expect("bash runs");
    if !found.status.success() {
        let reason = String::from_utf8_lossy(&found.stderr);
        eprintln!("skipped: {program} is not to be had: {}", reason.trim_end());
        return None;
    }
    let path = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim_end());
    let path = if path.is_absolute() { path } else { folder.join(path) };
    let libraries = if path.starts_with(&folder) { libraries(&folder.join("all")) } else { Vec::new() };
    Some((path, libraries))
}

fn libraries(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.file_name().to_string_lossy().contains(".so") {
                found.push(path);
            }
        }
    }
    found
}
