//! What the accounts file and the config file have in common: nobody else may change them, and an error names the line.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::setting::Given;
use crate::settings_file;

/// The file's place, and where its lines begin.
#[derive(Debug)]
pub(super) struct Place {
    pub path: PathBuf,
    line_starts: Vec<usize>,
}

impl Place {
    pub fn new(path: &Path, text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { path: path.into(), line_starts: std::iter::once(0).chain(starts).collect() }
    }

    /// The line of the byte `at`.
    pub fn line(&self, at: usize) -> String {
        let number = self.line_starts.partition_point(|start| *start <= at);
        format!("{} line {number}", shown(&self.path))
    }

    /// A key's value, and what to call it in an error.
    pub fn given(&self, key: &str, at: usize, text: String) -> Given {
        let name = format!("{}: {key}", self.line(at));
        Given { shown: format!("{name} = {text:?}"), name, text }
    }

    /// The text is no TOML of the right form. Only the message: the whole error shows the line, and with it perhaps a password.
    pub fn malformed(&self, error: &toml::de::Error, example: &str) -> ConfigError {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError(format!("{}: {}; {example}", self.line(at), without_values(error.message())))
    }

    /// The folder that names in the file are looked up in.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

/// A path without anything that a terminal would obey.
pub(super) fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

/// Why a file of settings cannot be used.
pub(super) enum Unusable {
    /// It cannot be read.
    Unreadable(io::Error),
    /// Others may change it; the message says how to cure that.
    Open(String),
    /// It is no UTF-8.
    NoText,
}

impl Unusable {
    /// What to say of it, with an example of a path and one of the file's text.
    pub fn cause(&self, path: &str, text: &str) -> String {
        match self {
            Self::Unreadable(error) => format!("cannot read it: {error}; give a file's path, such as {path}"),
            Self::Open(cause) => cause.clone(),
            Self::NoText => format!("it is not UTF-8; {text}"),
        }
    }
}

/// The whole file, of at most `most_bytes`.
pub(super) fn read(path: &Path, most_bytes: usize) -> Result<String, Unusable> {
    let file = std::fs::File::open(path).map_err(Unusable::Unreadable)?;
    // Asked of the opened file: the path may name another one a moment later.
    let about = file.metadata().map_err(Unusable::Unreadable)?;
    if about.is_file() && about.mode() & 0o022 != 0 {
        return Err(Unusable::Open(format!(
            "others may change it (mode {:03o}), and with it have passwords sent to their own server or commands run as you; run: chmod go-w \"{}\"",
            about.mode() & 0o777,
            shown(path)
        )));
    }
    let mut bytes = settings_file::read_opened(file, most_bytes).map_err(Unusable::Unreadable)?;
    String::from_utf8(std::mem::take(&mut *bytes)).map_err(|_| Unusable::NoText)
}

/// What serde says, without the values that it quotes, on one line.
fn without_values(message: &str) -> String {
    let mut kept = String::new();
    for (index, part) in message.split('"').enumerate() {
        kept.push_str(if index % 2 == 0 { part } else { "…" });
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ").escape_debug().to_string()
}
