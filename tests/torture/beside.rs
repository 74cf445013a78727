//! What the processes of a schedule have besides their work: files that they write, other accounts in the same process,
//! and a machine's clock that may be wrong.

use std::fs;
use std::time::Duration;

use mock_api::{EMAIL, Faults, PASSWORD, Server, Settings};
use serde_json::Value;

use crate::ground::Database;
use crate::plan::{Event, Outputs, Plan};
use crate::support::{Folder, MachineClock, Program};

/// Campaigns of the neighbour.
const CAMPAIGNS: u32 = 9;
/// Those of an account that hangs, and how many of them it asks for at once: a few such accounts want more places than the
/// process has.
const HANGING_CAMPAIGNS: u32 = 100;
const HANGING_WORKERS: u32 = 100;
/// For how long a sync hangs.
const HANG: Duration = Duration::from_secs(5);
const SEED: u64 = 1 << 40;

pub struct Beside {
    outputs: Outputs,
    folder: Folder,
    clock: Option<MachineClock>,
    others: Vec<Other>,
}

/// Another account: its name, its platform and the seed of its tokens.
struct Other {
    name: String,
    platform: Server,
    seed: u64,
    campaigns: u32,
}

impl Beside {
    pub fn new(plan: &Plan) -> Self {
        let folder = Folder::new("beside");
        let jumps = plan.has(|event| matches!(event, Event::OwnClock(_)));
        let neighbours = u64::from(plan.outputs.neighbour);
        let others = (0..neighbours + plan.field.hanging).map(|nth| {
            let seed = plan.seed ^ SEED ^ (nth << 41);
            let hangs = nth >= neighbours;
            let campaigns = if hangs { HANGING_CAMPAIGNS } else { CAMPAIGNS };
            let mut settings = Settings { seed, ..Settings::fast(campaigns) };
            if hangs {
                settings.faults.hanging_every = (1, HANG);
            }
            let name = if hangs { format!("hanging_{nth}") } else { "neighbour".into() };
            Other { name, platform: mock_api::start(settings).unwrap(), seed, campaigns }
        });
        Self {
            outputs: plan.outputs,
            clock: jumps.then(|| MachineClock::new(folder.as_path())).flatten(),
            others: others.collect(),
            folder,
        }
    }

    /// The program, told to write what it is to write; `api` is the platform of the account that all is about.
    pub fn given_to(&self, program: Program, api: &str) -> Program {
        let Outputs { metrics, traces, json_logs, .. } = self.outputs;
        let mut program = program;
        for (wanted, flags) in [
            (metrics, ["--metrics-file".to_owned(), self.folder.path("metrics.prom")]),
            (traces, ["--trace-file".to_owned(), self.folder.path("traces.jsonl")]),
            (json_logs, ["--log-format".to_owned(), "json".to_owned()]),
            (!self.others.is_empty(), ["--accounts".to_owned(), self.folder.path("accounts.toml")]),
        ] {
            if wanted {
                program = program.args(&flags.each_ref().map(String::as_str));
            }
        }
        if !self.others.is_empty() {
            let table = |name: &str, url: &str| {
                format!(
                    "[[account]]\nname = '{name}'\napi_url = '{url}'\nemail = '{EMAIL}'\npassword_env = 'THEIRS'\n"
                )
            };
            let mut tables = table("default", api);
            for other in &self.others {
                tables += &table(&other.name, &other.platform.url());
                if other.campaigns > CAMPAIGNS {
                    tables += &format!("workers = {HANGING_WORKERS}\n");
                }
            }
            // Another process may be reading it.
            let fresh = self.folder.file("accounts.new", &tables, 0o600);
            fs::rename(fresh, self.folder.path("accounts.toml")).unwrap();
            program = program.env("THEIRS", PASSWORD);
        }
        match &self.clock {
            Some(clock) => clock.given_to(program),
            None => program,
        }
    }

    /// Sets the machine's clock; false where that is not possible.
    pub fn set_clock(&self, offset: i64) -> bool {
        self.clock.as_ref().inspect(|clock| clock.set(offset)).is_some()
    }

    /// All that was written.
    pub fn written(&self) -> Vec<String> {
        let names = ["metrics.prom", "traces.jsonl"];
        names.iter().filter_map(|name| fs::read_to_string(self.folder.path(name)).ok()).collect()
    }

    /// The platforms of other accounts, and the seeds of their tokens.
    pub fn platforms(&self) -> impl Iterator<Item = (&Server, u64)> {
        self.others.iter().map(|other| (&other.platform, other.seed))
    }

    /// The names of all accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        std::iter::once("default").chain(self.others.iter().map(|other| other.name.as_str()))
    }

    /// Has all other accounts answer.
    pub fn heal(&self) {
        for other in &self.others {
            other.platform.set_faults(Faults::default());
        }
    }

    /// What is wrong with the files, at any end of any process.
    pub fn broken_files(&self) -> Vec<String> {
        let read = |name: &str| fs::read_to_string(self.folder.path(name)).ok();
        let mut broken = Vec::new();
        if let Some(text) = read("metrics.prom")
            && let Some(line) = broken_metrics(&text)
        {
            broken.push(format!("the metrics file has {line:?} in\n{text}"));
        }
        let traces = read("traces.jsonl").unwrap_or_default();
        let lines = traces.lines().filter(|line| serde_json::from_str::<Value>(line).is_err());
        broken.extend(lines.map(|line| format!("the trace file has {line:?}")));
        broken
    }

    /// What is wrong with the logs of a process.
    pub fn broken_logs(&self, stderr: &str) -> Vec<String> {
        let lines = stderr.lines().filter(|line| self.outputs.json_logs && line.starts_with('{'));
        lines
            .filter(|line| serde_json::from_str::<Value>(line).is_err())
            .map(|line| format!("the log has {line:?}"))
            .collect()
    }

    /// What is wrong with the other accounts, once all is done. Campaigns of one that hung may have been given up for that,
    /// after so many attempts.
    pub fn others_loss(&self, database: &Database, attempts: u64) -> Vec<String> {
        let lost = self.others.iter().filter_map(|Other { name, campaigns, .. }| {
            let counts = database.rows(&format!(
                "SELECT (SELECT count(*) FROM campaigns WHERE account = '{name}' AND removed_at IS NULL)
                        + (SELECT count(*) FROM dead_letters d WHERE account = '{name}' AND account <> 'neighbour'
                               AND cause IN ('timeout', 'interrupted') AND attempts >= {attempts}
                               AND NOT EXISTS (SELECT FROM campaigns c WHERE c.account = d.account AND c.id = d.id)),
                        (SELECT count(*) FROM sync_tasks WHERE account = '{name}'),
                        (SELECT count(*) FROM dead_letters WHERE account = '{name}'
                             AND (account = 'neighbour' OR cause NOT IN ('timeout', 'interrupted')
                                  OR attempts < {attempts}))"
            ));
            let counts: [i64; 3] = std::array::from_fn(|place| counts[0].get(place));
            (counts != [i64::from(*campaigns), 0, 0])
                .then(|| format!("{name} has {counts:?} rows or explained dead letters, tasks, other dead letters"))
        });
        lost.collect()
    }
}

/// The first line that is not Prometheus' text form, or the end that is missing.
fn broken_metrics(text: &str) -> Option<&str> {
    if !text.ends_with('\n') {
        return text.lines().last().or(Some(""));
    }
    text.lines().find(|line| {
        let sample = line.rsplit_once("} ").is_some_and(|(name, value)| {
            name.starts_with("campaign_sync_") && name.contains("account=\"") && value.parse::<f64>().is_ok()
        });
        !(sample || line.starts_with("# HELP campaign_sync_") || line.starts_with("# TYPE campaign_sync_"))
    })
}
