//! What the program promises, against a real Postgres and the mock of the API: a module for each promise.
//!
//! They are one test program, since each further one is linked with the whole library. `cargo test --test promises resume::`
//! runs one module. A test that changes its own process (environment, working directory, limits, signals) would change it for
//! all others: it needs a program of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod accounts;
mod api_tls;
mod blocked;
mod clock;
mod commands;
mod credentials;
mod database;
mod dead_letters;
mod disk_full;
mod distributed;
mod failover;
mod history;
mod hostile;
mod hostile_database;
mod hostile_machine;
mod hostile_platform;
mod installed;
mod logs;
mod looking_back;
mod machines;
mod metrics;
mod migrations;
mod pooler;
mod postgres_settings;
mod postgres_tls;
mod privileges;
mod processes;
mod queue;
mod refusals;
mod refused_rows;
mod removed;
mod report;
mod resume;
mod schemas;
mod shell;
mod signals;
mod statements;
#[path = "../support/mod.rs"]
mod support;
mod sync;
mod traces;
mod views;

#[test]
fn each_file_beside_this_one_is_part_of_the_program() {
    let here = include_str!("main.rs");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/promises")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap_or_else(|| panic!("{name} is no module"));
        assert!(
            module == "main" || here.contains(&format!("\nmod {module};\n")),
            "{name} is never run: name it above"
        );
    }
}
