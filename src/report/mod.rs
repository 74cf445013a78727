//! What people and machines are told: logs, progress, the summary.

pub mod completions;
pub mod log;
pub mod looking_back;
pub mod man;
pub mod metrics;
pub mod page;
pub mod progress;
pub mod sparkline;
pub mod standing;
pub mod status;
pub mod summary;
pub mod text;
pub mod trace;
pub mod whole_file;
