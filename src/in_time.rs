//! Work that knows no timeout of its own, given one.

use std::io;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// What `work` gives, in a thread of its own, or nothing when that takes longer than `most`: the thread is then left to
/// itself, and what it gives is dropped.
///
/// # Errors
/// When the system has no thread for it.
pub(crate) fn in_time<T: Send + 'static>(
    thread: &str,
    most: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new().name(thread.to_owned()).spawn(move || {
        let _nobody_waits = sender.send(work());
    })?;
    Ok(receiver.recv_timeout(most).ok())
}
