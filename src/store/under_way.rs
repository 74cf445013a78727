//! The transactions under way, and the thread that watches over them: the driver waits for ever for a server that takes
//! questions and never answers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use postgres::types::Type;

use super::connect::{Connector, Leash};
use super::patience::{Step, Verdict, Wait};
use crate::http::Stop;
use crate::http::lock::lock;

/// How often it is looked after them.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Questions and cancellations that may be unanswered at once.
const MOST_ERRANDS: usize = 8;

/// The transactions of one pool, by number.
pub(super) struct UnderWay {
    connector: Connector,
    subject: Arc<str>,
    transactions: Mutex<BTreeMap<u64, Transaction>>,
    /// One that was to stop has been broken off.
    hurried: AtomicBool,
    /// The log says who blocks them.
    told: AtomicBool,
    errands: AtomicUsize,
}

struct Transaction {
    wait: Wait,
    stop: Stop,
    leash: Arc<Leash>,
    /// What it waits for, as far as is known.
    blocked: Option<Blocked>,
    told: bool,
}

/// What a statement waits for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Blocked {
    /// A lock that somebody holds.
    Lock { pid: Option<i32>, application: String, state: String, seconds: f64 },
    /// A standby's word that it has the commit.
    Standby,
    /// The server knows nothing of it.
    Lost,
    /// It could not be asked, for this reason.
    Unknown(String),
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock { pid: Some(pid), application, state, seconds } => write!(
                f,
                "process {pid} (application_name {application:?}, {}, for {seconds:.0} s) holds a lock that it needs; end that with SELECT pg_terminate_backend({pid})",
                if state.is_empty() { "its state is hidden from this role" } else { state }
            ),
            Self::Lock { pid: None, .. } => {
                f.write_str("it waits for a lock; see pg_locks and pg_prepared_xacts for who holds it")
            }
            Self::Standby => f.write_str(
                "a commit waits for a synchronous standby; start that, or take it out of synchronous_standby_names (see pg_stat_replication)",
            ),
            Self::Lost => f.write_str("the server works on it no longer; is the network in between all right?"),
            Self::Unknown(reason) => write!(f, "the server cannot be asked why ({reason}); is it stopped?"),
        }
    }
}

/// One of them, until its end.
pub(super) struct Begun<'a> {
    all: &'a UnderWay,
    number: u64,
}

/// How one ended that was broken off.
pub(super) struct BrokenOff {
    pub(super) begun: Instant,
    pub(super) blocked: Option<Blocked>,
}

impl Begun<'_> {
    /// It has ended; whether by itself.
    pub(super) fn end(self) -> Option<BrokenOff> {
        let ended = lock(&self.all.transactions).remove(&self.number)?;
        if ended.told {
            self.all.told.store(false, Ordering::Relaxed);
        }
        let begun = ended.wait.begun();
        ended.wait.broken_off().then_some(BrokenOff { begun, blocked: ended.blocked })
    }
}

impl UnderWay {
    pub(super) fn new(connector: Connector, subject: Arc<str>) -> Self {
        Self {
            connector,
            subject,
            transactions: Mutex::default(),
            hurried: AtomicBool::new(false),
            told: AtomicBool::new(false),
            errands: AtomicUsize::new(0),
        }
    }

    pub(super) fn begin(&self, stop: &Stop, patience: Duration, leash: Arc<Leash>) -> Begun<'_> {
        let wait = Wait::new(Instant::now(), patience);
        let begun = Transaction { wait, stop: stop.clone(), leash, blocked: None, told: false };
        let mut all = lock(&self.transactions);
        let number = all.keys().next_back().map_or(0, |last| last + 1);
        all.insert(number, begun);
        Begun { all: self, number }
    }

    /// One that was to stop had to be broken off.
    pub(super) fn hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }

    /// Looks after all of them; gives for how long one has waited where nothing helps, or that takes longer than `longest`.
    pub(super) fn look_after(self: &Arc<Self>, longest: Duration) -> Option<Duration> {
        let now = Instant::now();
        let (mut steps, mut lost) = (Vec::new(), None);
        for (number, transaction) in lock(&self.transactions).iter_mut() {
            let waited = now.saturating_duration_since(transaction.wait.begun());
            let (stop, hurried) = (transaction.stop.requested(), self.hurried());
            match transaction.wait.step(now, stop, hurried) {
                Step::Lost => lost = Some(waited),
                Step::Nothing if waited > longest => lost = Some(waited),
                Step::Nothing => {}
                step => {
                    if step == Step::Cancel && stop {
                        self.hurried.store(true, Ordering::Relaxed);
                    }
                    steps.push((*number, step, transaction.leash.clone()));
                }
            }
        }
        for (number, step, leash) in steps {
            let all = self.clone();
            match step {
                Step::Ask => self.errand(move || all.ask(number, &leash)),
                Step::Cancel => self.errand(move || leash.cancel()),
                Step::Cut => leash.cut(),
                Step::Nothing | Step::Lost => {}
            }
        }
        lost
    }

    /// Does it in a thread of its own, for nobody knows how long it takes; not at all where too many are at it.
    fn errand(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        if self.errands.fetch_add(1, Ordering::AcqRel) >= MOST_ERRANDS {
            self.errands.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let all = self.clone();
        let done = move || {
            work();
            all.errands.fetch_sub(1, Ordering::AcqRel);
        };
        if thread::Builder::new().name("errand".into()).spawn(done).is_err() {
            self.errands.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn ask(&self, number: u64, leash: &Leash) {
        let (verdict, blocked) = match self.who_blocks(leash.backend()) {
            Ok(None) => (Verdict::Working, None),
            Ok(Some(Blocked::Lost)) => (Verdict::Silent, Some(Blocked::Lost)),
            Ok(blocked) => (Verdict::Blocked, blocked),
            Err(reason) => (Verdict::Silent, Some(Blocked::Unknown(reason))),
        };
        let mut transactions = lock(&self.transactions);
        // It may have ended meanwhile.
        let Some(transaction) = transactions.get_mut(&number) else { return };
        let now = Instant::now();
        transaction.wait.answered(verdict, now);
        transaction.blocked.clone_from(&blocked);
        let waited = now.saturating_duration_since(transaction.wait.begun());
        if let Some(blocked) = blocked
            && waited >= super::patience::ASK_AFTER
            && !self.told.swap(true, Ordering::Relaxed)
        {
            transaction.told = true;
            drop(transactions);
            log::warn!("{}: no answer for {} s: {blocked}", self.subject, waited.as_secs());
        }
    }

    /// What the statement of this server process waits for; nothing when it is worked on.
    fn who_blocks(&self, backend: i32) -> Result<Option<Blocked>, String> {
        let mut client = self.connector.connect_in_time().map_err(|refusal| refusal.error.to_string())?.0;
        let row = client
            .query_typed_opt(include_str!("../../sql/who_blocks.sql"), &[(&backend, Type::INT4)])
            .map_err(|error| super::StoreError::from(error).to_string())?;
        let Some(row) = row else { return Ok(Some(Blocked::Lost)) };
        let is = |name| row.get::<_, Option<bool>>(name).unwrap_or(false);
        Ok(if is("locked") {
            Some(Blocked::Lock {
                pid: row.get("pid"),
                application: row.get("application_name"),
                state: row.get("state"),
                seconds: row.get::<_, Option<f64>>("seconds").unwrap_or_default().max(0.0),
            })
        } else {
            is("standby").then_some(Blocked::Standby)
        })
    }
}
