//! The program `campaign-sync`.

fn main() {}
