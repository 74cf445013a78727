//! What a soak measures, and whether it stays flat.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::ground::Database;

/// Which parts of the time are compared, in hundredths; before the first everything warms up: pools fill, tables get their
/// first vacuum.
const PARTS: [(u32, u32); 3] = [(10, 30), (45, 65), (80, 101)];

/// How much larger the last part's value may be than the first's.
#[derive(Clone, Copy)]
struct Allowed {
    share: f64,
    more: f64,
    of: Value,
}

/// What stands for a part.
#[derive(Clone, Copy)]
enum Value {
    Median,
    /// For what grows until it is cleared away now and then: if not all of it is, the next highest is higher.
    Highest,
}

/// What grows with what was done, and not with time: shown, not judged.
const BY_DESIGN: Option<Allowed> = None;
const A_FEW: Option<Allowed> = Some(Allowed { share: 0.0, more: 4.0, of: Value::Median });
const MEMORY: Option<Allowed> = Some(Allowed { share: 0.1, more: 2.0, of: Value::Median });
/// In KiB. Tables are vacuumed now and then.
const TABLE: Option<Allowed> = Some(Allowed { share: 0.25, more: 256.0, of: Value::Highest });
const DEAD_ROWS: Option<Allowed> = Some(Allowed { share: 0.5, more: 5_000.0, of: Value::Highest });

/// One measure and its samples.
struct Gauge {
    name: String,
    allowed: Option<Allowed>,
    samples: Vec<(Duration, f64)>,
}

/// All measures of a soak.
pub struct Gauges {
    process: u32,
    long: Arc<Database>,
    again: Arc<Database>,
    gauges: Vec<Gauge>,
}

/// What became of a measure: the values of its parts.
pub struct Growth<'a> {
    gauge: &'a Gauge,
    values: [f64; 3],
}

impl Gauges {
    /// Of a process and its database, and of the database of others.
    pub fn new(process: u32, long: &Arc<Database>, again: &Arc<Database>) -> Self {
        Self { process, long: long.clone(), again: again.clone(), gauges: Vec::new() }
    }

    /// Takes a sample of everything.
    pub fn look(&mut self, at: Duration, runs: u64) {
        self.look_at_process(at);
        let (long, again) = (self.long.clone(), self.again.clone());
        self.look_at_database(at, "long", &long);
        self.look_at_database(at, "again", &again);
        #[allow(clippy::cast_precision_loss)]
        self.note(at, "again: runs so far", BY_DESIGN, runs as f64);
    }

    fn look_at_process(&mut self, at: Duration) {
        let folder = format!("/proc/{}", self.process);
        // Where there is no such folder, and when the process has just ended, there is nothing to see.
        let Ok(status) = fs::read_to_string(format!("{folder}/status")) else { return };
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let memory = number("VmRSS:").map(|kib| kib / 1024.0);
        let files = fs::read_dir(format!("{folder}/fd")).map(Iterator::count).ok();
        let files = files.and_then(|count| u32::try_from(count).ok()).map(f64::from);
        for (name, allowed, value) in [
            ("process: memory, MiB", MEMORY, memory),
            ("process: open files", A_FEW, files),
            ("process: threads", A_FEW, number("Threads:")),
        ] {
            value.into_iter().for_each(|value| self.note(at, name, allowed, value));
        }
    }

    fn look_at_database(&mut self, at: Duration, which: &str, database: &Database) {
        let tables = database.rows(
            "SELECT c.relname::text AS name, pg_total_relation_size(c.oid)::float8 / 1024 AS kib,
                    coalesce(s.n_dead_tup, 0)::float8 AS dead,
                    (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I', c.relname),
                        false, true, '')))[1]::text::float8 AS rows
             FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
             WHERE c.relkind = 'r' AND c.relnamespace = 'campaign_sync'::regnamespace
               AND c.relname NOT IN ('torture_faults', 'torture_effects', 'schema_migrations')
             ORDER BY 1",
        );
        for row in tables {
            let name: String = row.get("name");
            // The long run goes on to new campaigns all the time, and every run is remembered for 90 days.
            let grows = name == "sync_runs"
                || (which == "long" && name != "quotas" && name != "workers" && name != "access_tokens");
            let or_grows = |allowed| if grows { BY_DESIGN } else { allowed };
            self.note(at, &format!("{which}: {name}, KiB"), or_grows(TABLE), row.get("kib"));
            self.note(at, &format!("{which}: {name}, dead rows"), or_grows(DEAD_ROWS), row.get("dead"));
            let rows = if name == "sync_tasks" { BY_DESIGN } else { or_grows(A_FEW) };
            self.note(at, &format!("{which}: {name}, rows"), rows, row.get("rows"));
        }
        let connected = database.rows(
            "SELECT count(*)::float8 FROM pg_stat_activity
             WHERE datname = current_database() AND application_name <> 'torture'",
        );
        self.note(at, &format!("{which}: connections"), A_FEW, connected[0].get(0));
    }

    fn note(&mut self, at: Duration, name: &str, allowed: Option<Allowed>, value: f64) {
        let known = self.gauges.iter().position(|gauge| gauge.name == name);
        let place = known.unwrap_or_else(|| {
            self.gauges.push(Gauge { name: name.to_owned(), allowed, samples: Vec::new() });
            self.gauges.len() - 1
        });
        self.gauges[place].samples.push((at, value));
    }

    /// What became of everything in this time; printed, with all samples in a file beside.
    pub fn verdict(&self, time: Duration) -> Vec<Growth<'_>> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.csv");
        fs::write(&path, self.table()).unwrap();
        println!("{:<34} {:>10} {:>10} {:>10}  verdict", "", "start", "middle", "end");
        let growths: Vec<Growth<'_>> = self.gauges.iter().map(|gauge| Growth::of(gauge, time)).collect();
        growths.iter().for_each(|growth| println!("{growth}"));
        println!("all samples: {}", path.display());
        growths
    }

    /// All samples: a row each, with the seconds since the start.
    fn table(&self) -> String {
        let mut text = String::from("measure,seconds,value\n");
        for gauge in &self.gauges {
            for (at, value) in &gauge.samples {
                let _ = writeln!(text, "\"{}\",{:.1},{value:.1}", gauge.name, at.as_secs_f64());
            }
        }
        text
    }
}

impl<'a> Growth<'a> {
    fn of(gauge: &'a Gauge, time: Duration) -> Self {
        let value = |(from, to): (u32, u32)| {
            let part = time * from / 100..time * to / 100;
            let mut values: Vec<f64> =
                gauge.samples.iter().filter(|(at, _)| part.contains(at)).map(|(_, value)| *value).collect();
            values.sort_by(f64::total_cmp);
            let place = match gauge.allowed.map_or(Value::Median, |allowed| allowed.of) {
                Value::Median => values.len() / 2,
                Value::Highest => values.len().saturating_sub(1),
            };
            // What was not seen is no proof.
            values.get(place).copied().unwrap_or(f64::NAN)
        };
        Self { gauge, values: PARTS.map(value) }
    }

    fn is_flat(&self) -> bool {
        let [start, _, end] = self.values;
        self.gauge.allowed.is_none_or(|allowed| end <= start * (1.0 + allowed.share) + allowed.more)
    }

    /// What is wrong with it.
    pub fn fault(&self) -> Option<String> {
        (!self.is_flat()).then(|| format!("not flat: {self}"))
    }
}

impl fmt::Display for Growth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [start, middle, end] = self.values;
        write!(f, "{:<34} {start:>10.1} {middle:>10.1} {end:>10.1}  ", self.gauge.name)?;
        match self.gauge.allowed {
            None => f.write_str("by design"),
            Some(allowed) => {
                let word = if self.is_flat() { "flat" } else { "GROWS" };
                write!(f, "{word} (allowed: {:.0} % and {})", allowed.share * 100.0, allowed.more)
            }
        }
    }
}
