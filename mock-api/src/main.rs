//! The program `mock-api`.

fn main() {}
