//! Every parser of foreign bytes, fed with what resembles its input: nothing may panic, take long, show a secret or give a
//! value out of its range.
//!
//! An input is a mutation of the corpus (`tests/fuzz/corpus/TARGET/*`), drawn from a seed, so a run can be repeated:
//! `FUZZ_SEED` (default 1) and `FUZZ_INPUTS`, the number of inputs for each target, or `FUZZ_SECONDS`, the time for all of
//! them together. The corpus itself is tried first. What fails is kept below `target/tmp/fuzz/`; copied into the corpus, it is
//! tried ever after.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod mutation;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutation::Mutator;
use targets::TARGETS;

/// Inputs for each target where nothing else is asked for.
const INPUTS: u64 = 1_000;
/// No input of this size may take longer, on however slow a machine.
const SLOWEST: Duration = Duration::from_secs(2);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Why an input is a failure, if it is one.
fn failure(run: fn(&[u8]), input: &[u8]) -> Option<String> {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(input)));
    if let Err(cause) = outcome {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        return Some(text.or(cause.downcast_ref::<&str>().copied()).unwrap_or("it panics").to_owned());
    }
    let took = begun.elapsed();
    (took > SLOWEST).then(|| format!("it takes {took:?}"))
}

/// Keeps the input and says how to try it again.
fn keep(target: &str, seed: u64, count: u64, input: &[u8], why: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{target}-{seed}-{count}"));
    std::fs::write(&file, input).unwrap();
    format!(
        "{target}, seed {seed}, input {count}: {why}\n  kept as {}; copy it to tests/fuzz/corpus/{target}/ and run again",
        file.display()
    )
}

/// Feeds a target; gives the number of inputs and what failed, at most a few.
fn feed(
    name: &str,
    run: fn(&[u8]),
    dictionary: &[&str],
    seed: u64,
    enough: impl Fn(u64) -> bool,
) -> (u64, Vec<String>) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut failures = Vec::new();
    for (place, input) in (0..).zip(&corpus) {
        failures.extend(failure(run, input).map(|why| keep(name, 0, place, input, &why)));
    }
    let mut mutator = Mutator::new(&corpus, dictionary, seed);
    let mut count = 0;
    while !enough(count) && failures.len() < 5 {
        let input = mutator.next();
        count += 1;
        failures.extend(failure(run, &input).map(|why| keep(name, seed, count, &input, &why)));
    }
    (count, failures)
}

#[test]
fn no_foreign_bytes_break_a_parser() {
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let each = number("FUZZ_SECONDS")
        .map(|seconds| Duration::from_secs(seconds) / u32::try_from(TARGETS.len()).unwrap());
    let most = number("FUZZ_INPUTS").unwrap_or(INPUTS);
    let (mut total, mut failures) = (0, Vec::new());
    for target in TARGETS {
        let begun = Instant::now();
        let enough = |count| each.map_or(count >= most, |each| begun.elapsed() >= each);
        let (count, failed) = feed(target.name, target.run, target.dictionary, seed, enough);
        println!("{:10} {count:>10} inputs, seed {seed}, {} failures", target.name, failed.len());
        total += count;
        failures.extend(failed);
    }
    println!("{:10} {total:>10} inputs", "all");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_fault_in_a_parser_is_found() {
    // Three bytes in a row that no corpus entry has, and an index that is out of range for long inputs.
    fn faulty(input: &[u8]) {
        assert!(!input.windows(3).any(|window| window == b"r=9"), "planted");
    }
    let (count, failures) = feed("hints", faulty, &["r=", "9"], 1, |count| count >= 100_000);
    assert_eq!(failures.len(), 5, "after {count} inputs");
}
