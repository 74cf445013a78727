//! Measures whole processes against mock-api and a real Postgres, and prints one table of medians and ratios.
//!
//! `bench DATABASE_URL [PART…]`, where a part is one of a, b, c, d, e, f, g, h; see `make bench`.

mod measured;

use std::path::PathBuf;
use std::time::Duration;

use measured::{Accounts, Database, Mock, Result, Run, Tools, median};

/// Runs of each thing that is measured.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().ok_or("usage: bench DATABASE_URL [a|b|c|d|e|f|g|h]…")?;
    let parts: Vec<String> = arguments.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|other| other == part);
    let tools = Tools::find(server)?;
    println!("| measured | value | beside |\n| --- | --- | --- |");
    if wanted("a") {
        rate_limit(&tools)?;
    }
    if wanted("b") {
        throughput(&tools)?;
    }
    if wanted("c") {
        latency(&tools)?;
    }
    if wanted("d") {
        memory(&tools)?;
    }
    if wanted("e") {
        cold_start(&tools)?;
    }
    if wanted("f") {
        queue(&tools)?;
    }
    if wanted("g") {
        accounts(&tools)?;
    }
    if wanted("h") {
        limited_accounts(&tools)?;
    }
    Ok(())
}

fn row(measured: &str, value: &str, beside: &str) {
    println!("| {measured} | {value} | {beside} |");
}

/// The reference job, sixty times as fast: 112 requests at 10 a second, the last of them answered after 33 ms.
fn rate_limit(tools: &Tools) -> Result<()> {
    const BOUND: f64 = 11.0 + 2.0 / 60.0;
    for (limit, processes) in [(true, 1), (true, 3), (false, 1), (false, 3)] {
        let (mut ratios, mut refused) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mock = Mock::start(tools, &["--profile", "faithful", "--time-scale", "60"])?;
            let database = Database::create(tools)?;
            let flags: &[&str] = if limit { &["--rate-limit", "10/1s"] } else { &[] };
            let runs = (0..processes).map(|_| tools.sync(&mock, &database, flags).spawn());
            let runs: Vec<_> = runs.collect::<Result<_>>()?;
            let ended: Vec<Run> = runs.into_iter().map(measured::Running::wait).collect::<Result<_>>()?;
            let elapsed = ended.iter().map(|run| run.elapsed).max().unwrap_or_default();
            ratios.push(elapsed.as_secs_f64() / BOUND);
            refused.push(mock.ledger("refused")?);
        }
        let what = format!(
            "reference job at 60 times the pace, limit {}, {processes} process(es)",
            if limit { "known" } else { "unknown" }
        );
        let most = refused.iter().copied().fold(0.0, f64::max);
        row(
            &what,
            &format!("{:.3} of the lower bound", median(&ratios)),
            &format!("{} refusals, at most {most}", median(&refused)),
        );
    }
    Ok(())
}

const CAMPAIGNS: u32 = 20_000;

/// The engine beside the bare loop, one after the other in each round: what disturbs one disturbs the other.
fn throughput(tools: &Tools) -> Result<()> {
    let traces = tools.scratch("traces.jsonl");
    let metrics = tools.scratch("metrics.prom");
    let log = ["--log-format", "json"];
    let traced = ["--trace-file", traces.as_str(), "--metrics-file", metrics.as_str()];
    let variants: [(&str, &[&str], &str); 4] = [
        ("20,000 campaigns, 16 workers", &[], "info"),
        ("the same, with traces and metrics", &traced, "info"),
        ("the same, with a limit that is not reached", &["--rate-limit", "1000000/1s"], "info"),
        ("the same, with debug logs", &log, "debug"),
    ];
    let mock = Mock::start(tools, &["--profile", "fast", "--campaigns", "20000", "--count-only"])?;
    let mut bare: Vec<Run> = Vec::new();
    let mut autocommit: Vec<Run> = Vec::new();
    let mut ours: Vec<Vec<Run>> = vec![Vec::new(); variants.len()];
    for _ in 0..ROUNDS {
        bare.push(tools.bare_loop(&mock, CAMPAIGNS, None).spawn()?.wait()?);
        for (runs, (_, flags, level)) in ours.iter_mut().zip(&variants) {
            let database = Database::create(tools)?;
            let sync = tools.sync(&mock, &database, &["--page-size", "100"]).args(flags);
            runs.push(sync.env("RUST_LOG", level).spawn()?.wait()?);
            let _next_one_begins_anew = std::fs::remove_file(&traces);
        }
        let database = Database::create(tools)?;
        autocommit.push(tools.bare_loop(&mock, CAMPAIGNS, Some(&database)).spawn()?.wait()?);
    }
    let pace = |runs: &[Run]| {
        median(&runs.iter().map(|run| f64::from(CAMPAIGNS) / run.elapsed.as_secs_f64()).collect::<Vec<_>>())
    };
    let describe = |runs: &[Run]| {
        let cpu: Vec<f64> = runs.iter().map(|run| run.cpu.as_secs_f64() / 2.0).collect();
        let peak: Vec<f64> = runs.iter().map(|run| run.peak_mb).collect();
        format!("{:.2} CPU s per 10,000, {:.1} MB", median(&cpu), median(&peak))
    };
    let base = pace(&bare);
    row("bare loop: the same posts, nothing stored", &format!("{base:.0} campaigns/s"), &describe(&bare));
    for (runs, (what, ..)) in ours.iter().zip(&variants) {
        let value =
            format!("{:.0} campaigns/s, {:.0} % of the bare loop", pace(runs), pace(runs) / base * 100.0);
        row(what, &value, &describe(runs));
    }
    let value = format!("{:.0} campaigns/s, {:.0} %", pace(&autocommit), pace(&autocommit) / base * 100.0);
    row("bare loop with a single-row upsert and commit each", &value, &describe(&autocommit));
    Ok(())
}

fn latency(tools: &Tools) -> Result<()> {
    let flags = ["--profile", "fast", "--campaigns", "2000", "--sync-latency", "200ms", "--count-only"];
    let mock = Mock::start(tools, &flags)?;
    for workers in ["16", "64", "256"] {
        let ideal = 2_000.0 * 0.2 / workers.parse::<f64>()?;
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let database = Database::create(tools)?;
            let sync = tools.sync(&mock, &database, &["--page-size", "100", "--workers", workers]);
            ratios.push(sync.spawn()?.wait()?.elapsed.as_secs_f64() / ideal);
        }
        let what = format!("2,000 campaigns at 200 ms each, {workers} workers");
        row(&what, &format!("{:.2} of the ideal", median(&ratios)), &format!("ideal {ideal:.2} s"));
    }
    Ok(())
}

fn memory(tools: &Tools) -> Result<()> {
    let mut peaks = Vec::new();
    for campaigns in ["10000", "1000000"] {
        let mock = Mock::start(tools, &["--profile", "fast", "--campaigns", campaigns, "--count-only"])?;
        let database = Database::create(tools)?;
        let run = tools.sync(&mock, &database, &["--page-size", "100"]).spawn()?.wait()?;
        peaks.push((run.peak_mb, run.elapsed));
    }
    let [(small, _), (large, elapsed)] = peaks[..] else { return Err("two runs".into()) };
    row(
        "1,000,000 campaigns, peak memory",
        &format!("{:.2} of that of 10,000", large / small),
        &format!("{large:.1} MB beside {small:.1} MB, in {:.0} s", elapsed.as_secs_f64()),
    );
    Ok(())
}

/// From the start of the process to its end, with the binary that is shipped.
fn cold_start(tools: &Tools) -> Result<()> {
    let mock = Mock::start(tools, &["--profile", "fast", "--campaigns", "100"])?;
    let binary: PathBuf =
        tools.static_binary().ok_or("there is no target/dist/campaign-sync: run make dist")?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let database = Database::create(tools)?;
        let run = tools.with(&binary, &mock, &database, &["sync"]).spawn()?.wait()?;
        times.push(run.elapsed.as_secs_f64());
    }
    let slowest = Duration::from_secs_f64(times.iter().copied().fold(0.0, f64::max));
    row(
        "100 campaigns, static binary, start to exit",
        &format!("{:.3} s", median(&times)),
        &format!("slowest {:.3} s", slowest.as_secs_f64()),
    );
    Ok(())
}

/// A million tasks, claimed and committed without an API: does the queue slow down?
fn queue(tools: &Tools) -> Result<()> {
    let database = Database::create(tools)?;
    let tenths = tools.million(&database)?;
    let (Some(first), Some(last)) = (tenths.first(), tenths.last()) else { return Err("no tenths".into()) };
    row(
        "1,000,000 tasks queued and drained, last tenth",
        &format!("{:.2} of the first", last / first),
        &format!("{first:.2} s and {last:.2} s, median {:.2} s", median(&tenths)),
    );
    Ok(())
}

/// Rounds of what takes minutes.
const FEW_ROUNDS: usize = 3;
/// As many campaigns in all, however many accounts they are spread over.
const IN_ALL: u32 = 100_000;

/// Two runs of each: into an empty database, and over the rows that are there.
fn accounts(tools: &Tools) -> Result<()> {
    let counts = [1, 20, 200, 1_000, 5_000];
    let mut rounds: Vec<[Vec<Run>; 2]> = vec![Default::default(); counts.len()];
    let mut commits: Vec<[Vec<f64>; 2]> = vec![Default::default(); counts.len()];
    for _ in 0..FEW_ROUNDS {
        for (place, count) in counts.into_iter().enumerate() {
            let each = (IN_ALL / count).to_string();
            let mock = Mock::start(tools, &["--profile", "fast", "--campaigns", &each, "--count-only"])?;
            let (database, accounts) =
                (Database::create(tools)?, Accounts::write(tools, &mock, count, None)?);
            for time in 0..2 {
                let before = database.commits()?;
                rounds[place][time].push(tools.sync_all(&accounts, &database).spawn()?.wait()?);
                commits[place][time].push((database.commits()? - before) / f64::from(count));
            }
        }
    }
    let seconds =
        |runs: &[Run]| median(&runs.iter().map(|run| run.elapsed.as_secs_f64()).collect::<Vec<_>>());
    for (place, count) in counts.into_iter().enumerate() {
        for (time, over) in ["an empty database", "rows that are there"].into_iter().enumerate() {
            let runs = &rounds[place][time];
            let (took, one) = (seconds(runs), seconds(&rounds[0][time]));
            let peak = median(&runs.iter().map(|run| run.peak_mb).collect::<Vec<_>>());
            let threads = runs.iter().map(|run| run.threads).max().unwrap_or(0);
            row(
                &format!("{count} accounts of {} campaigns, into {over}", IN_ALL / count),
                &format!("{:.1} times one account of as many", took / one),
                &format!(
                    "{took:.1} s, {peak:.0} MB, {threads} threads, {:.0} commits an account",
                    median(&commits[place][time])
                ),
            );
        }
    }
    Ok(())
}

/// Each account is under 10 requests in 3 s, and needs 41 of them: the last one is sent after 12 s.
fn limited_accounts(tools: &Tools) -> Result<()> {
    const BOUND: f64 = 12.0;
    for count in [1, 100, 1_000] {
        let mock = Mock::start(
            tools,
            &["--profile", "fast", "--campaigns", "40", "--count-only", "--rate-limit", "10/3s"],
        )?;
        let accounts = Accounts::write(tools, &mock, count, Some("10/3s"))?;
        let mut ratios = [Vec::new(), Vec::new()];
        let mut refused = 0.0_f64;
        for _ in 0..FEW_ROUNDS {
            let database = Database::create(tools)?;
            for ratios in &mut ratios {
                // What the platform counts of the run before is over.
                std::thread::sleep(Duration::from_secs(4));
                let run = tools.sync_all(&accounts, &database).spawn()?.wait()?;
                ratios.push(run.elapsed.as_secs_f64() / BOUND);
            }
            refused = refused.max(mock.ledger("refused")?);
        }
        row(
            &format!("{count} accounts of 40 campaigns, each at 10 requests in 3 s"),
            &format!("{:.2} and {:.2} of the bound", median(&ratios[0]), median(&ratios[1])),
            &format!("first and second run; {refused} refusals"),
        );
    }
    Ok(())
}
