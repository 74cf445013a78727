//! Postgres, and the only place with SQL calls.

pub mod conninfo;

pub use conninfo::{Conninfo, ConninfoError};
