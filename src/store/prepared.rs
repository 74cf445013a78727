//! Statements that come back on a connection are prepared there: from then on the server neither parses nor, after a few
//! times, plans them. That is half of its work for many small accounts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postgres::types::{ToSql, Type};
use postgres::{Client, Error, Statement};

use super::error::is_lost;
use super::schema_name::SchemaName;

/// What a statement is given, with the types it takes it for.
pub(super) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// A statement is prepared when it comes back after this many times: to prepare it takes a round trip of its own, and a
/// short run had better save that.
const UNPREPARED_USES: u8 = 4;

/// What the statements of one connection are, by the place and length of their texts.
pub(super) struct Prepared {
    statements: HashMap<(usize, usize), Known>,
    session: Session,
    /// Prepared statements of a connection were lost.
    lost: Arc<AtomicBool>,
}

enum Known {
    Used(u8),
    Prepared(Statement),
}

/// Whether all of the connection's statements meet the same process of the server.
enum Session {
    /// Its number, as the connection was told when it was opened.
    Unknown(i32),
    Own,
    /// A pooler is in between, and may give each transaction another one.
    Shared,
}

impl Prepared {
    /// For a new connection to this process of the server. Nothing is prepared once statements were `lost` on any of the
    /// connections that share it.
    pub(super) fn new(backend: i32, lost: Arc<AtomicBool>) -> Self {
        Self { statements: HashMap::new(), session: Session::Unknown(backend), lost }
    }

    /// The statement, if it is prepared by now.
    pub(super) fn find(
        &mut self,
        driver: &mut Client,
        schema: &SchemaName,
        statement: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Statement>, Error> {
        let key = (statement.as_ptr() as usize, statement.len());
        match self.statements.entry(key).or_insert(Known::Used(0)) {
            Known::Prepared(prepared) => return Ok(Some(prepared.clone())),
            Known::Used(times) if *times < UNPREPARED_USES => {
                *times += 1;
                return Ok(None);
            }
            Known::Used(_) => {}
        }
        if !self.may_prepare(driver)? {
            return Ok(None);
        }
        let types: Vec<Type> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
        let prepared = driver.prepare_typed(&schema.statement(statement), &types)?;
        self.statements.insert(key, Known::Prepared(prepared.clone()));
        Ok(Some(prepared))
    }

    /// To be told of every error of a prepared statement.
    pub(super) fn failed(&self, error: &Error) {
        let code = error.code().map_or("", |code| code.code());
        if is_lost(code) && !self.lost.swap(true, Ordering::Relaxed) {
            log::info!("database: prepared statements were lost (SQLSTATE {code}): going on without them");
        }
    }

    fn may_prepare(&mut self, driver: &mut Client) -> Result<bool, Error> {
        if self.lost.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if let Session::Unknown(told) = self.session {
            let row = driver.query_typed("SELECT pg_backend_pid()", &[])?;
            let meets: Option<i32> = row.first().map(|row| row.get(0));
            self.session = if meets == Some(told) { Session::Own } else { Session::Shared };
        }
        Ok(matches!(self.session, Session::Own))
    }
}
