//! What went wrong with the database, by what the caller can do about it.

use std::error::Error as _;
use std::fmt;
use std::io;

use postgres::error::{DbError, ErrorPosition};

use crate::foreign;
use crate::http::tls_fault::TlsFault;
use crate::own_machine::Shortage;

/// PostgreSQL's code for a row whose key is there already.
pub const UNIQUE_VIOLATION: &str = "23505";

/// PostgreSQL's code for a write on a server that takes none: a standby, or a primary that was demoted in place.
pub(super) const READ_ONLY: &str = "25006";

/// PostgreSQL's code for a connection beyond a limit: the server's, the database's or the role's.
pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";

/// Every message is one line, names the cause, and holds neither a password nor the data of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The database cannot serve just now; the same transaction may succeed later.
    Unavailable {
        /// What happened, and where to look.
        message: String,
    },
    /// The database refuses, and will until somebody changes a setting or a privilege.
    Refused {
        /// What happened, and the way out.
        message: String,
    },
    /// The statement fails because of a row: retrying is useless, but without that row it may succeed. See
    /// [`Self::is_rows_fault`].
    Row {
        /// PostgreSQL's five-character code.
        sqlstate: String,
        /// What happened, without the value.
        message: String,
    },
    /// The statement is wrong, or the answer is: a fault of this program.
    Internal {
        /// What happened.
        message: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { message } | Self::Refused { message } | Self::Internal { message } => {
                f.write_str(message)
            }
            Self::Row { sqlstate, message } => write!(f, "{message} (SQLSTATE {sqlstate})"),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// The same error, said of `subject`; a row's error is about the row.
    pub(super) fn of(self, subject: &str) -> Self {
        let prefix = |message: String| format!("{subject}: {message}");
        match self {
            Self::Unavailable { message } => Self::Unavailable { message: prefix(message) },
            Self::Refused { message } => Self::Refused { message: prefix(message) },
            Self::Row { sqlstate, message } => Self::Row { sqlstate, message },
            Self::Internal { message } => Self::Internal { message: prefix(message) },
        }
    }
}

impl StoreError {
    /// The message for an end that it brings about: a row of the program's own is refused by what the user has made.
    #[must_use]
    pub fn with_way_out(&self) -> String {
        match self {
            Self::Row { .. } => {
                format!(
                    "the database refuses a row: {self}; remove what refuses it, then run again to resume"
                )
            }
            other => other.to_string(),
        }
    }
}

/// What the database says of a row that it drops without an error.
const NOT_KEPT: &str = "02000";

/// How a statement of ours reports a table that did not keep a row: as the value of a cast that fails, because plain SQL can
/// raise no error of its own. The table's name follows.
const NOT_KEPT_SIGN: &str = "campaign-sync: no row kept in ";

impl StoreError {
    /// Whether the row's data is refused, so that the campaign is a dead letter: by its type, a constraint, a trigger or a
    /// policy. Any other code tells of a fault that somebody has to repair first.
    #[must_use]
    pub fn is_rows_fault(&self) -> bool {
        let Self::Row { sqlstate, .. } = self else { return false };
        matches!(&sqlstate[..sqlstate.len().min(2)], "02" | "22" | "23" | "42" | "44" | "54" | "P0")
            && (!sqlstate.starts_with("42") || sqlstate == ROW_POLICY)
    }
}

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => from_server(said),
            None => from_client(&error),
        }
    }
}

/// Whether the connection can be used again after this error: the server reported it and goes on listening.
pub(super) fn leaves_connection_usable(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|said| {
        let code = said.code().code();
        // A stale prepared statement goes away with its connection.
        matches!(said.severity(), "ERROR")
            && !code.starts_with("08")
            // Nor is a server of use that takes writes no longer: another one does.
            && !matches!(code, "0A000" | READ_ONLY)
            && !is_lost(code)
    })
}

/// Whether this code says that a prepared statement is not there, or another one is in its place: somebody else ended it, or
/// uses the same session.
pub(super) fn is_lost(sqlstate: &str) -> bool {
    matches!(sqlstate, "26000" | "42P05")
}

/// Whether libpq would try again with (`allow`) or without (`prefer`) TLS.
pub(super) fn may_depend_on_tls(error: &postgres::Error) -> bool {
    // 28000 is what pg_hba.conf's refusal of a kind of connection gives; a wrong password is 28P01.
    error.as_db_error().map_or_else(|| is_tls(error), |said| said.code().code() == "28000")
}

/// PostgreSQL's code for a missing privilege, and for a row that a policy (row-level security) refuses.
const ROW_POLICY: &str = "42501";

/// Classes of codes that tell of a fault in a statement of ours, unless code of the user's raises them.
const OUR_FAULTS: [&str; 8] = ["03", "0A", "24", "25", "26", "34", "3B", "42"];

fn from_server(said: &DbError) -> StoreError {
    let sqlstate = said.code().code();
    let text = one_line(said.message());
    if let Some((_, table)) = said.message().split_once(NOT_KEPT_SIGN) {
        return not_kept(table.trim_end_matches('"'));
    }
    // A trigger's function is named: that is where the cure is.
    let users = users_code(said);
    let class = &sqlstate[..sqlstate.len().min(2)];
    let row =
        |message: &str| StoreError::Row { sqlstate: sqlstate.into(), message: in_function(message, users) };
    match sqlstate {
        // PgBouncer gives its own refusals this code of the protocol.
        "08P01" if is_pooler_refusal(&text) => {
            StoreError::Refused { message: with_cure(&text, pooler_cure(&text)) }
        }
        // A function of the user's may do less than it needs to: that is no fault of the row's.
        ROW_POLICY if users.is_some() => StoreError::Refused {
            message: with_cure(
                &in_function(&text, users),
                "grant it to this role, or make the function SECURITY DEFINER; then run again to resume",
            ),
        },
        // Whatever else is wrong in there.
        _ if users.is_some() && class == "42" => row(&text),
        "0A000" if text.contains("cached plan") => StoreError::Unavailable { message: text },
        // From the next connection on nothing is prepared.
        code if is_lost(code) => StoreError::Unavailable { message: text },
        READ_ONLY => StoreError::Unavailable {
            message: with_cure(&text, "is this a standby? target_session_attrs=read-write passes it over"),
        },
        "3D000" => {
            StoreError::Refused { message: with_cure(&text, &format!("createdb {}", quoted_name(&text))) }
        }
        // The routine's name is the same in every language of the server's messages.
        ROW_POLICY if said.routine() == Some("ExecWithCheckOptions") => row(&text),
        ROW_POLICY => StoreError::Refused { message: with_cure(&text, privilege_cure(&text)) },
        "42P01" | "42703" | "42883" | "3F000" => StoreError::Refused {
            message: with_cure(&text, "is the schema up to date? campaign-sync migrate"),
        },
        "42804" | "42846" | "42P10" => StoreError::Refused {
            message: with_cure(
                &text,
                "has somebody changed a table? It has to be as campaign-sync migrate made it",
            ),
        },
        "28P01" => StoreError::Refused { message: with_cure(&text, SET_PASSWORD) },
        "28000" => {
            StoreError::Refused { message: with_cure(&text, "check PGUSER, PGSSLMODE and pg_hba.conf") }
        }
        TOO_MANY_CONNECTIONS => {
            let cure = "raise max_connections, or the CONNECTION LIMIT of the role or database";
            StoreError::Unavailable { message: with_cure(&text, cure) }
        }
        "53100" => StoreError::Unavailable { message: with_cure(&text, "free space on the database's disk") },
        "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => {
            StoreError::Unavailable { message: text }
        }
        // A distributed database reports a node that is gone by this code.
        "XX000" if text.to_lowercase().contains("connection") => StoreError::Unavailable { message: text },
        _ => match class {
            "08" | "40" | "53" | "57" | "58" => StoreError::Unavailable { message: text },
            "28" | "0P" | "0L" => StoreError::Refused { message: text },
            "22" => row(&without_quoted(&text)),
            _ if users.is_none() && OUR_FAULTS.contains(&class) => {
                StoreError::Internal { message: format!("{text} (SQLSTATE {sqlstate})") }
            }
            // Constraints, triggers and limits; and what nobody can foresee: which row it is, is found by trying.
            _ => row(&text),
        },
    }
}

/// What cures a wrong password, as long as it is not known where that stands.
const SET_PASSWORD: &str = "set PGPASSWORD or PGPASSFILE";

impl StoreError {
    /// The same; where it tells of a wrong password, with the place of that.
    pub(super) fn with_password_in(self, origin: Option<&str>) -> Self {
        match (self, origin) {
            (Self::Refused { message }, Some(origin)) if origin != "PGPASSWORD" => {
                // Of a connection string, its name says enough.
                let place = origin.strip_suffix(": password").unwrap_or(origin);
                let place = foreign::one_line(place, MESSAGE_CHARACTERS);
                Self::Refused {
                    message: message.replace(SET_PASSWORD, &format!("correct the password in {place}")),
                }
            }
            (other, _) => other,
        }
    }
}

/// The longest that the name of a user's function may be in a message, in characters.
const FUNCTION_CHARACTERS: usize = 120;

fn in_function(message: &str, users: Option<&str>) -> String {
    match users {
        Some(function) => format!("{message} (in {})", foreign::one_line(function, FUNCTION_CHARACTERS)),
        None => message.to_owned(),
    }
}

/// The function of the user's that was at work, if one was: a trigger's, for instance. Only its name is looked for: a
/// statement of it may hold the row's values.
fn users_code(said: &DbError) -> Option<&str> {
    let names = |line: &&str| {
        let place = line.find("PL/").or_else(|| line.find("SQL function"));
        place.is_some_and(|place| place < 20) && !line.starts_with("SQL statement")
    };
    let lines = || said.where_().unwrap_or_default().lines().filter(names);
    // The last line is the trigger's own function, in any language of the server's messages.
    let named = lines().find(|line| line.contains("function")).or_else(|| lines().next_back());
    // Without a name: the place is in a statement that is not ours.
    let inside = || matches!(said.position(), Some(ErrorPosition::Internal { .. })).then_some("a function");
    named.or_else(inside)
}

/// A table did not keep a row that was written to it.
fn not_kept(table: &str) -> StoreError {
    let table = foreign::one_line(table, FUNCTION_CHARACTERS);
    let message = format!(
        "the table {table} does not keep the row: a trigger, rule or policy drops it without an error"
    );
    // Those of campaigns are told apart by being tried alone; there is no work without the others.
    if matches!(&*table, "campaigns" | "dead_letters" | "sync_tasks") {
        StoreError::Row { sqlstate: NOT_KEPT.into(), message }
    } else {
        StoreError::Refused { message: with_cure(&message, "remove that, then run again to resume") }
    }
}

fn is_pooler_refusal(text: &str) -> bool {
    ["unsupported startup parameter", "no such", "authentication failed", "auth failed", "not allowed"]
        .iter()
        .any(|sign| text.contains(sign))
}

fn pooler_cure(text: &str) -> &'static str {
    if text.contains("startup parameter") {
        "unset PGOPTIONS, or list it in PgBouncer's ignore_startup_parameters"
    } else {
        "check user, password and database in PgBouncer's configuration"
    }
}

fn privilege_cure(text: &str) -> &'static str {
    if text.contains("for schema") {
        "GRANT CREATE ON it to this role, or run campaign-sync migrate as a role that may create tables"
    } else if text.contains("schema_migrations") {
        "GRANT SELECT ON it to this role"
    } else {
        "campaign-sync check lists the GRANTs that this role lacks"
    }
}

/// An error that did not come from the server: the connection's, TLS's, or the driver's own.
fn from_client(error: &postgres::Error) -> StoreError {
    if error.is_closed() {
        return StoreError::Unavailable { message: "the connection was closed by the server".into() };
    }
    let kind = error.to_string();
    let cause = error.source().map(|cause| one_line(&cause.to_string())).unwrap_or_default();
    if let Some(tls) = find::<rustls::Error>(error) {
        return StoreError::Refused { message: tls_message(tls) };
    }
    if let Some(io) = find::<io::Error>(error) {
        return match io.kind() {
            // Text with a zero byte, for instance, which the protocol cannot carry.
            io::ErrorKind::InvalidInput if kind.contains("encoding") => {
                StoreError::Internal { message: format!("{kind}: {cause}") }
            }
            io::ErrorKind::InvalidInput if is_tls(error) => StoreError::Refused {
                message: with_cure("TLS: the host's name is no DNS name", "check DATABASE_URL or PGHOST"),
            },
            _ => match Shortage::behind(io) {
                Some(shortage) => StoreError::Unavailable { message: shortage.to_string() },
                None => StoreError::Unavailable { message: io_message(io, &cause) },
            },
        };
    }
    // The driver's kinds are told apart only by the first words of what they show.
    if cause == "server does not support TLS" {
        let cure = "turn ssl on at the server, or lower sslmode (PGSSLMODE)";
        return StoreError::Refused { message: with_cure("the server has no TLS", cure) };
    }
    if cause == "password missing" {
        let message =
            with_cure("the server asks for a password and none is set", "set PGPASSWORD or PGPASSFILE");
        return StoreError::Refused { message };
    }
    // Every statement that has to give a row writes one.
    if kind.starts_with("query returned an unexpected number of rows") {
        let cure = "does a trigger, rule or policy drop it? remove that, then run again to resume";
        let message = with_cure("a row that was written to one of the program's tables is not there", cure);
        return StoreError::Refused { message };
    }
    let message = if cause.is_empty() { kind.clone() } else { format!("{kind}: {cause}") };
    if kind.starts_with("error performing TLS")
        || kind.starts_with("authentication")
        || kind.starts_with("invalid c")
    {
        StoreError::Refused { message }
    } else if kind.starts_with("timeout") || kind.starts_with("unexpected message") {
        StoreError::Unavailable { message }
    } else {
        StoreError::Internal { message }
    }
}

/// The server cannot be reached.
pub(super) fn unreachable_server(error: &io::Error) -> StoreError {
    StoreError::Unavailable { message: io_message(error, &one_line(&error.to_string())) }
}

fn is_tls(error: &postgres::Error) -> bool {
    error.to_string().starts_with("error performing TLS")
}

fn tls_message(error: &rustls::Error) -> String {
    let fault = TlsFault::from(error);
    let cure = match &fault {
        TlsFault::Untrusted => "set sslrootcert (PGSSLROOTCERT) to that authority's PEM file",
        TlsFault::Expired => "renew it; is this machine's clock right?",
        TlsFault::NotYetValid => "is this machine's clock right?",
        TlsFault::OtherName => "connect by a name in its subjectAltName, or use sslmode=verify-ca",
        TlsFault::Unacceptable(_) => "replace it",
        TlsFault::Refused(_) => {
            "does it ask for a client certificate? set sslcert and sslkey (PGSSLCERT, PGSSLKEY)"
        }
        TlsFault::Unspoken(_) => "the server must speak TLS 1.2 or 1.3",
    };
    with_cure(&one_line(&fault.to_string()), cure)
}

fn io_message(error: &io::Error, cause: &str) -> String {
    let (what, cure) = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            ("connection refused", "is Postgres up? check DATABASE_URL or PGHOST and PGPORT")
        }
        io::ErrorKind::NotFound => {
            ("there is no server's socket", "is Postgres up? check DATABASE_URL or PGHOST and PGPORT")
        }
        io::ErrorKind::TimedOut => ("no answer in time", "is the server up, and a firewall open?"),
        io::ErrorKind::PermissionDenied if cause.contains("does not allow writes") => {
            (cause, "is this a standby? name the primary in PGHOST")
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            return "the connection was lost".into();
        }
        _ if cause.contains("lookup address") => {
            ("the host's name cannot be resolved", "check DATABASE_URL or PGHOST")
        }
        _ => return cause.to_owned(),
    };
    with_cure(what, cure)
}

/// The first cause of this type, however deep, also inside I/O errors.
fn find<T: std::error::Error + 'static>(error: &postgres::Error) -> Option<&T> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| cause.source());
    }
    None
}

fn with_cure(what: &str, cure: &str) -> String {
    format!("{what} ({cure})")
}

/// The longest that a message of the server's, or of the driver's, may be in ours, in characters.
pub(crate) const MESSAGE_CHARACTERS: usize = 300;

fn one_line(text: &str) -> String {
    foreign::one_line(text, MESSAGE_CHARACTERS)
}

/// The first name in double quotes.
fn quoted_name(text: &str) -> &str {
    text.split('"').nth(1).unwrap_or_default()
}

/// Data errors quote the value that was wrong: it is left out.
fn without_quoted(text: &str) -> String {
    let (Some(first), Some(last)) = (text.find('"'), text.rfind('"')) else { return text.to_owned() };
    if first == last {
        text[..first].trim_end().into()
    } else {
        format!("{}…{}", &text[..=first], &text[last..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_the_server_quotes_is_left_out() {
        assert_eq!(
            without_quoted("invalid input syntax for type integer: \"a \"b\" c\""),
            "invalid input syntax for type integer: \"…\""
        );
        assert_eq!(without_quoted("value \"9…"), "value");
        assert_eq!(without_quoted("integer out of range"), "integer out of range");
    }
}
