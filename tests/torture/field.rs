//! Faults that were met in the field, drawn apart from all others: rows that the database refuses, commits that it forgets,
//! strangers that lock its tables, a `retry` beside a `sync`, totals and hints that contradict everything else, accounts that
//! hang beside good ones, and a machine with few open files.

use std::time::Duration;

use crate::chance::Chance;
use crate::plan::{After, Begin, Event, Plan};

/// The tables that strangers lock.
pub const TABLES: [&str; 6] =
    ["campaigns", "sync_tasks", "dead_letters", "sync_runs", "workers", "schema_migrations"];

/// What lasts as long as the faults do, or longer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Field {
    pub refused: Option<Refused>,
    /// Commits are acknowledged before they are durable, and written out after so many milliseconds: a crash takes the newest.
    pub forgets: Option<u64>,
    /// How far the platform's total is off, and by how much it changes from page to page; to the very end.
    pub total_off: (i64, i64),
    /// So many accounts have a platform on which every sync hangs.
    pub hanging: u64,
    /// A process may have so many open files.
    pub open_files: Option<u64>,
}

/// Rows of every so manieth id that a trigger of the user's refuses.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    pub table: &'static str,
    pub every: u64,
    /// The error's code, or `drop` for none.
    pub how: &'static str,
}

impl Refused {
    /// Whether a campaign that is refused is a dead letter, and not the end of the run.
    pub fn makes_letters(self) -> bool {
        self.table != "dead_letters" && !matches!(self.how, "45XYZ" | "XX000")
    }
}

/// What a stranger locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// A table, by number.
    Table(usize),
    /// All rows of it.
    Rows(usize),
    /// That under which the schema is migrated.
    Migration,
}

impl Lock {
    /// The statement.
    pub fn taken_by(self) -> String {
        match self {
            Self::Table(table) => {
                format!("LOCK TABLE campaign_sync.{} IN ACCESS EXCLUSIVE MODE", TABLES[table])
            }
            Self::Rows(table) => format!("SELECT FROM campaign_sync.{} FOR UPDATE", TABLES[table]),
            Self::Migration => "SELECT pg_advisory_lock(7161677084962221667)".into(),
        }
    }
}

impl Field {
    /// Draws the faults of the plan's seed, and puts those that happen at some moment among its events.
    pub fn befall(plan: &mut Plan) {
        let mut chance = Chance::new(plan.seed ^ (0xf1e1d << 32));
        if chance.happens(0.12) {
            plan.field.refused = Some(Refused {
                table: chance.of(&["campaigns", "campaigns", "sync_tasks", "dead_letters"]),
                every: chance.of(&[1, 3, 5, 9]),
                how: chance.of(&["drop", "P0001", "22023", "23514", "45XYZ", "XX000"]),
            });
        }
        if chance.happens(0.07) {
            plan.field.forgets = Some(chance.of(&[20, 200, 200, 10_000]));
            for _ in 0..chance.number(1, 2) {
                plan.events.push((chance.millis(200, 1_150), Event::CrashDatabase));
            }
        }
        if chance.happens(0.12) {
            for _ in 0..chance.number(1, 3) {
                plan.events.push((chance.millis(50, 1_150), Event::Retry));
            }
            // There is something to put back, with a record that is no longer true.
            if !plan.seed.is_multiple_of(3) {
                plan.begin = Begin::Older;
                plan.events.push((Duration::ZERO, Event::Retry));
            }
        }
        if chance.happens(0.12) {
            let table = usize::try_from(chance.number(0, TABLES.len() as u64 - 1)).unwrap();
            let lock =
                chance.of(&[Lock::Table(table), Lock::Table(table), Lock::Rows(table), Lock::Migration]);
            let (from, length) = (chance.millis(50, 900), chance.millis(200, 3_000));
            plan.events.push((from, Event::Lock(lock)));
            plan.events.push((from + length, Event::Unlock));
        }
        Self::contradict(plan, &mut chance);
        if chance.happens(0.08) {
            plan.field.hanging = chance.number(1, 5);
        }
        if chance.happens(0.08) {
            plan.field.open_files = Some(chance.of(&[20, 24, 32, 48]));
        }
    }

    /// What the platform says of itself, and is not so.
    fn contradict(plan: &mut Plan, chance: &mut Chance) {
        if chance.happens(0.1) {
            plan.field.total_off = chance.of(&[(-3, 0), (2, 0), (1_000, 0), (0, 1), (0, -1)]);
            plan.settings.total_off = plan.field.total_off;
            plan.after = After::Newer;
        }
        if chance.happens(0.06) {
            plan.settings.faults.ends_early = chance.number(1, 4);
        }
        if chance.happens(0.08) {
            let share = chance.share(0.08);
            // A limit is learned from a refusal, whether there is one or not: down to one request a second.
            if plan.settings.campaigns <= 60 {
                plan.settings.campaigns = plan.settings.campaigns.min(20);
                plan.settings.faults.senseless_hint = share;
            }
        }
    }
}
