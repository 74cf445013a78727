//! Tells the program which commit it is built from.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rustc-env=CAMPAIGN_SYNC_TARGET={}", env::var("TARGET").unwrap_or_default());
    let compiler = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    println!("cargo::rustc-env=CAMPAIGN_SYNC_RUSTC={}", compiler.as_deref().unwrap_or("unknown"));
    // A build for development would be made anew for every commit, and is of no commit anyway.
    if env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    // A file that is not there would count as changed every time.
    for changes in [".git/logs/HEAD", "src", "sql", "Cargo.toml", "Cargo.lock"]
        .iter()
        .filter(|path| Path::new(path).exists())
    {
        println!("cargo::rerun-if-changed={changes}");
    }
    let Some(commit) = output("git", &["rev-parse", "--short=12", "HEAD"]) else { return };
    let sources =
        ["status", "--porcelain", "--untracked-files=no", "--", "src", "sql", "Cargo.toml", "Cargo.lock"];
    let changed = output("git", &sources).is_some_and(|files| !files.is_empty());
    println!("cargo::rustc-env=CAMPAIGN_SYNC_COMMIT={commit}{}", if changed { "+changes" } else { "" });
    if let Some(date) = output("git", &["log", "-1", "--format=%cd", "--date=format:%Y-%m-%d"]) {
        println!("cargo::rustc-env=CAMPAIGN_SYNC_COMMIT_DATE={date}");
    }
}

/// What a command prints, when it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
