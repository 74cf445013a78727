//! What the promises in `tests/` stand on: a real Postgres, the built program, and the API's mock in process.
//!
//! The torture, which is a program of its own, stands on a part of it.

mod cluster;
mod database;
mod folder;
pub mod impostor;
pub mod json_schema;
mod machine_clock;
mod part;
pub mod postgres_cluster;
mod program;
mod secrets;
mod unpacked;

use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use database::{Database, pool};
pub use folder::Folder;
pub use machine_clock::MachineClock;
pub use part::Part;
pub use program::{Outcome, Program, Running, Signal};
pub use secrets::assert_no_secret;
pub use unpacked::unpacked;

/// Long enough for anything that is going to happen at all on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, looking often; fails with `what` when it does not within `timeout`.
#[track_caller]
pub fn eventually(timeout: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < timeout, "not within {timeout:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
