//! Postgres, and the only place with SQL calls.

mod connect;
pub mod conninfo;
pub mod error;
pub mod pool;
pub mod tls;

pub use conninfo::{Conninfo, ConninfoError};
pub use error::StoreError;
pub use pool::{Connection, Pool};
