//! The ad platform, mocked: faithful to the contract, or fast, or as hostile as the seed says.
//!
//! ```
//! let server = mock_api::start(mock_api::Settings::fast(100)).unwrap();
//! assert!(server.url().starts_with("http://127.0.0.1:"));
//! assert_eq!(server.ledger().total, 0);
//! ```

mod answers;
mod api;
mod campaigns;
mod encoding;
mod faults;
mod ledger;
mod limiter;
pub mod odd;
mod server;
pub mod settings;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use campaigns::{Misfortune, Served};
pub use faults::Faults;
pub use ledger::{Kind, Ledger, Seen, most_in_window};
pub use odd::Fate;
pub use settings::{EMAIL, ExpiresIn, Hint, PASSWORD, Settings};

/// A running server; stops, with all its threads, when dropped.
pub struct Server {
    api: Arc<api::Api>,
    listening: server::Listening,
}

/// Starts a server.
///
/// # Errors
/// When the address cannot be listened on.
pub fn start(settings: Settings) -> io::Result<Server> {
    let address = settings.address.clone();
    let api = Arc::new(api::Api::new(settings));
    let listening = server::listen(&address, api.clone())?;
    Ok(Server { api, listening })
}

impl Server {
    /// Its base address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.listening.address)
    }

    /// What it has seen.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.api.ledger()
    }

    /// What a correct client makes of each campaign: by id, or by the raw record where it has none that can be used.
    #[must_use]
    pub fn fates(&self) -> Vec<(String, Fate)> {
        self.api.fates()
    }

    /// Why syncs of this campaign never succeed, if they do not.
    #[must_use]
    pub fn misfortune(&self, id: &str) -> Option<Misfortune> {
        self.api.misfortune(id)
    }

    /// What it said last of each campaign with an id, when it keeps a full ledger. What was cut off counts as said.
    #[must_use]
    pub fn served(&self) -> Served {
        self.api.served()
    }

    /// Answers everything by 503 (or as [`Faults::outage_closes`] says) for so long from now; zero ends it.
    pub fn outage_for(&self, duration: Duration) {
        self.api.outage_for(duration);
    }

    /// Changes what goes wrong from the next request on.
    pub fn set_faults(&self, faults: Faults) {
        self.change(|settings| settings.faults = faults);
    }

    /// Changes its behaviour from the next request on.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.api.change(change);
    }

    /// Makes every token given so far useless.
    pub fn revoke_tokens(&self) {
        self.api.revoke_tokens();
    }

    /// Stops it, as dropping it does: its connections break.
    pub fn stop(self) {}
}
