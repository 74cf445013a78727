//! Which program this is.

/// The version in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from, with its date, as the build script found them.
const COMMIT: Option<&str> = option_env!("CAMPAIGN_SYNC_COMMIT");
const DATE: Option<&str> = option_env!("CAMPAIGN_SYNC_COMMIT_DATE");
const TARGET: &str = env!("CAMPAIGN_SYNC_TARGET");
const COMPILER: &str = env!("CAMPAIGN_SYNC_RUSTC");

/// Version, commit and the commit's date: `0.2.0 (1a2b3c4d5e6f 2026-11-27)`.
#[must_use]
pub fn line() -> String {
    match (COMMIT, DATE) {
        (Some(commit), Some(date)) => format!("{VERSION} ({commit} {date})"),
        _ => VERSION.into(),
    }
}

/// All that is known, a line each.
#[must_use]
pub fn lines() -> String {
    let commit = COMMIT.unwrap_or("unknown: built without the repository, or for development");
    let date = DATE.map_or_else(String::new, |date| format!(" of {date}"));
    format!("campaign-sync {VERSION}\ncommit: {commit}{date}\ntarget: {TARGET}\ncompiler: {COMPILER}\n")
}
