//! One process's part in an account, as the engine's commands to the database have it.

use std::time::Duration;

use campaign_sync::http::token::{Grant, Turn};
use campaign_sync::http::{RateLimit, Secret};
use campaign_sync::rate::ledger::{Ask, Grant as Granted, Order};
use campaign_sync::store::Store;
use campaign_sync::store::command::{Command, Part as Whose, Reply};
use campaign_sync::store::execute::execute;
use campaign_sync::store::process::new_worker_id;
use campaign_sync::store::tokens::Sealing;

use super::Database;

/// A process that works on the account `default`.
pub struct Part {
    store: Store,
    sealing: Sealing,
    whose: Whose,
}

impl Part {
    /// One more of them.
    pub fn of(database: &Database) -> Self {
        let sealing = Sealing::new("default", mock_api::EMAIL, Secret::new("a password".to_owned()));
        let whose = Whose { account: "default".into(), run_id: 1, worker: new_worker_id() };
        Self { store: database.store(), sealing, whose }
    }

    fn carry_out(&self, command: &Command) -> Reply {
        execute(&self.store, &self.sealing, &self.whose, command)
    }

    /// Asks for sends.
    #[track_caller]
    pub fn reserve(&self, limit: Option<RateLimit>, margin: Duration, want: u32) -> Granted {
        self.ask(Ask { limit, learned: false, margin, want, late: Duration::ZERO, correction: None })
    }

    /// Asks for sends, and corrects earlier ones.
    #[track_caller]
    pub fn ask(&self, ask: Ask) -> Granted {
        match self.carry_out(&Command::Reserve(ask)) {
            Reply::Reserved(Ok(granted)) => granted,
            other => panic!("{other:?}"),
        }
    }

    /// Tells of a limit or a gate.
    #[track_caller]
    pub fn tell(&self, order: Order) {
        let reply = self.carry_out(&Command::Tell(order));
        assert!(matches!(reply, Reply::Told(Ok(()))), "{reply:?}");
    }

    /// Asks for a token that is newer, or the turn to fetch one.
    #[track_caller]
    pub fn token_turn(&self, outdated: u64) -> Turn {
        match self.carry_out(&Command::TokenTurn(outdated)) {
            Reply::TokenTurn(Ok((turn, _))) => turn,
            other => panic!("{other:?}"),
        }
    }

    /// Shares a token; gives its generation.
    #[track_caller]
    pub fn keep_token(&self, grant: Grant) -> u64 {
        match self.carry_out(&Command::KeepToken(grant)) {
            Reply::Kept(Ok(generation)) => generation,
            other => panic!("{other:?}"),
        }
    }
}
