//! The reference for users, as it is also read beside the README.

#[doc = include_str!("docs/install.md")]
pub mod install {}
#[doc = include_str!("docs/configuration.md")]
pub mod configuration {}
#[doc = include_str!("docs/behaviour.md")]
pub mod behaviour {}
#[doc = include_str!("docs/database.md")]
pub mod database {}
#[doc = include_str!("docs/distributed.md")]
pub mod distributed {}
#[doc = include_str!("docs/scale.md")]
pub mod scale {}
#[doc = include_str!("docs/json.md")]
pub mod json {}
#[doc = include_str!("docs/monitoring.md")]
pub mod monitoring {}
#[doc = include_str!("docs/performance.md")]
pub mod performance {}
