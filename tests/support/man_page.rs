//! Prints the manual page.

fn main() {
    print!("{}", campaign_sync::report::man::page(&campaign_sync::cli::described()));
}
