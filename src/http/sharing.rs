//! What goes wrong where limits and tokens are shared with other processes.

use std::fmt;

/// What is shared with other processes is out of reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharingError {
    /// Why, in a line.
    pub message: String,
    /// It will not pass by itself: somebody has to permit or repair something.
    pub lasting: bool,
}

impl fmt::Display for SharingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
