//! Prometheus' text form, version 0.0.4: written, and read back as far as it is our own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{
    CAMPAIGNS, DEAD_LETTERS, DURATION, EXIT_CODE, LAST_FINISHED, LAST_SUCCESS, LATENCY, LISTED,
    LISTING_FAILURES, NOT_REMOVED, REQUESTS, RETRIES, TOKENS, TOTAL, WAITED,
};

/// All our metrics begin so.
const PREFIX: &str = "campaign_sync_";

/// Every metric: name, type and meaning.
const FAMILIES: [(&str, &str, &str); 15] = [
    (LAST_SUCCESS, "gauge", "When the last run ended that listed and synced every campaign; 0: never."),
    (
        LAST_FINISHED,
        "gauge",
        "When the last run ended that listed every campaign, with or without dead letters; 0: never.",
    ),
    (
        EXIT_CODE,
        "gauge",
        "How the last run ended: 0 complete, 3 with dead letters, 4 credentials refused, 5 stopped before the end.",
    ),
    (LISTING_FAILURES, "gauge", "Runs in a row that the platform did not let list all campaigns."),
    (DURATION, "gauge", "How long the last run took in this process."),
    (CAMPAIGNS, "gauge", "Campaigns of the last run by what became of them."),
    (LISTED, "gauge", "Campaigns that the last complete listing showed."),
    (
        TOTAL,
        "gauge",
        "Campaigns that there are, by the platform's own word; more than were listed: some were not shown.",
    ),
    (
        NOT_REMOVED,
        "gauge",
        "Campaigns that the last complete listing no longer showed and that were not marked as removed: sync_runs says why.",
    ),
    (DEAD_LETTERS, "gauge", "Campaigns that failed permanently and were not synced since."),
    (REQUESTS, "counter", "Requests by the class of their answer."),
    (RETRIES, "counter", "Attempts made again by why the one before failed."),
    (TOKENS, "counter", "Access tokens fetched."),
    (WAITED, "counter", "Time spent waiting for the rate limit."),
    (LATENCY, "histogram", "Time from a request to the end of its answer."),
];

/// One value of one account.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    name: String,
    /// The label besides the account.
    label: Option<(String, String)>,
    pub value: f64,
}

impl Sample {
    pub fn new(name: &str, label: Option<(&str, &str)>, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            label: label.map(|(key, value)| (key.to_owned(), value.to_owned())),
            value,
        }
    }

    pub fn is(&self, name: &str, label: Option<(&str, &str)>) -> bool {
        self.name == name && self.label.as_ref().map(|(key, value)| (key.as_str(), value.as_str())) == label
    }

    fn is_of(&self, family: &str, kind: &str) -> bool {
        match self.name.strip_prefix(family) {
            Some("") => kind != "histogram",
            Some("_bucket" | "_sum" | "_count") => kind == "histogram",
            _ => false,
        }
    }
}

/// The samples of each account.
pub(super) type Accounts = BTreeMap<String, Vec<Sample>>;

/// All accounts as a file.
pub(super) fn render(accounts: &Accounts) -> String {
    let mut text = String::new();
    for (family, kind, help) in FAMILIES {
        let of_family = accounts.iter().flat_map(|(account, samples)| {
            samples.iter().filter(|sample| sample.is_of(family, kind)).map(move |sample| (account, sample))
        });
        let mut of_family = of_family.peekable();
        if of_family.peek().is_none() {
            continue;
        }
        // Writing to a String cannot fail.
        let _infallible = write!(text, "# HELP {family} {help}\n# TYPE {family} {kind}\n");
        for (account, sample) in of_family {
            let _infallible = write!(text, "{}{{account=\"{}\"", sample.name, escaped(account));
            if let Some((key, value)) = &sample.label {
                let _infallible = write!(text, ",{key}=\"{}\"", escaped(value));
            }
            let _infallible = writeln!(text, "}} {}", sample.value);
        }
    }
    text
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Reads a file back. Lines of ours that cannot be understood are left out; so is what no account owns.
///
/// # Errors
/// The first line that is not ours.
pub(super) fn parse(text: &str) -> Result<Accounts, &str> {
    let mut accounts = Accounts::new();
    for line in text.split('\n').filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if !line.starts_with(PREFIX) {
            return Err(line);
        }
        if let Some((account, sample)) = sample(line) {
            accounts.entry(account).or_default().push(sample);
        }
    }
    Ok(accounts)
}

fn sample(line: &str) -> Option<(String, Sample)> {
    let (name, mut rest) = line.split_once('{')?;
    let (mut account, mut label) = (None, None);
    while let Some((key, after)) = rest.split_once("=\"") {
        let (value, after) = unescaped(after)?;
        match key {
            "account" => account = Some(value),
            _ => label = Some((key.to_owned(), value)),
        }
        rest = after.strip_prefix(',').unwrap_or(after);
        if rest.starts_with('}') {
            break;
        }
    }
    let value = rest.strip_prefix('}')?.trim().parse().ok()?;
    Some((account?, Sample { name: name.to_owned(), label, value }))
}

/// A label's value up to its closing quote, and what stands behind that.
fn unescaped(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(accounts in proptest::collection::btree_map(
            "\\PC*|[\\x00-\\x1f\"\\\\n{},=]*", (0.0f64..1e12, 0u32..1000), 0..5)) {
            let accounts: Accounts = accounts.into_iter().map(|(name, (value, count))| (name, vec![
                Sample::new(LAST_SUCCESS, None, value),
                Sample::new(REQUESTS, Some(("status", "2xx")), f64::from(count)),
                Sample::new(&format!("{LATENCY}_bucket"), Some(("le", "+Inf")), f64::from(count)),
            ])).collect();
            let text = render(&accounts);
            prop_assert_eq!(parse(&text), Ok(accounts), "{}", text);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "(campaign_sync_|[a\\\\\"{},= 1#\n])*") {
            let _any = parse(&text);
        }
    }

    #[test]
    fn a_file_with_other_metrics_is_not_ours() {
        assert_eq!(parse("# HELP x\nnode_load1 0.5\n"), Err("node_load1 0.5"));
        assert_eq!(parse("root:x:0:0::/root:/bin/sh"), Err("root:x:0:0::/root:/bin/sh"));
        assert_eq!(parse("campaign_sync_broken{account=\"a 1\n\n"), Ok(Accounts::new()));
    }
}
