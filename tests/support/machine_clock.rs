//! Another time than it is, for one program: by libfaketime, where it is to be had.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{Program, unpacked};

/// The wall clock of the programs that are given it; their monotonic clock goes on as it does when a machine's time is set.
pub struct MachineClock {
    library: &'static Path,
    file: PathBuf,
}

impl MachineClock {
    /// A clock that is right until it is [set](Self::set), kept in a file in this folder. Nothing, with a line that says so,
    /// where there is no libfaketime.
    pub fn new(folder: &Path) -> Option<Self> {
        static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
        let clock = Self { library: LIBRARY.get_or_init(library).as_deref()?, file: folder.join("clock") };
        clock.set(0);
        Some(clock)
    }

    /// Puts it so many seconds after the true time, at once.
    pub fn set(&self, offset: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset:+}")).expect("its folder is there");
        fs::rename(new, &self.file).expect("its folder is there");
    }

    /// The program, with this clock.
    pub fn given_to(&self, program: Program) -> Program {
        program
            .env("LD_PRELOAD", self.library.to_str().expect("a plain path"))
            .env("FAKETIME_TIMESTAMP_FILE", self.file.to_str().expect("a plain path"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

fn library() -> Option<PathBuf> {
    let (_, mut libraries) = unpacked("faketime", "faketime")?;
    let installed = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    libraries.extend(installed.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")));
    libraries.into_iter().find(|path| path.ends_with("libfaketimeMT.so.1") && path.is_file())
}
