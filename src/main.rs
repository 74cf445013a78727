//! The program `campaign-sync`: parses, calls one function, and turns its outcome into an exit code.

use std::io;

fn main() {
    campaign_sync::report::log::conclude_panics();
    let arguments = std::env::args_os().skip(1);
    let code =
        campaign_sync::commands::run(arguments, &|name| std::env::var_os(name), &mut io::stdout().lock());
    std::process::exit(code);
}
