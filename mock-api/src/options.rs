//! The command line, and the settings it means.

use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;
use mock_api::{ExpiresIn, Faults, Hint, Settings};

/// The ad platform, mocked. Prints `listening on http://ADDRESS` once it does, and runs until SIGINT or SIGTERM.
/// Besides the platform's endpoints, GET /ledger tells as JSON what it saw; /ledger?full=1 with every request.
#[derive(FromArgs)]
#[argh(note = "Durations are 500ms, 30s, 5m, 1h. Faults are, with SHARE between 0 and 1:
  hang=SHARE:DURATION reset=SHARE cut-body=SHARE reset-in-body=SHARE drip=SHARE:DURATION html=SHARE
  other-json=SHARE server-error=SHARE redirect=SHARE:URL endless-body=SHARE endless-headers=SHARE gzip-bomb=SHARE
  on-tokens revoke-every=N refused-every=N forbidden-every=N poisoned-every=N hanging-every=N:DURATION
  duplicates endless repeated-page=N empty-page=N most-per-page=N
  outage outage=DURATION outage-closes sync-outage list-outage")]
pub(crate) struct Options {
    /// faithful (default), fast or hostile
    #[argh(option, default = "String::from(\"faithful\")")]
    profile: String,
    /// runs the faithful profile so many times faster (default 1)
    #[argh(option, default = "1.0")]
    time_scale: f64,
    /// the port on 127.0.0.1 (default 0, a free one)
    #[argh(option, default = "0")]
    port: u16,
    /// how many campaigns (default 100)
    #[argh(option, default = "100")]
    campaigns: u32,
    /// the seed of all chance (default 1)
    #[argh(option, default = "1")]
    seed: u64,
    /// the accepted email (default ads@example.com)
    #[argh(option)]
    email: Option<String>,
    /// the accepted password (default correct-horse-battery-staple)
    #[argh(option)]
    password: Option<String>,
    /// how long a sync takes (default: the profile's)
    #[argh(option, from_str_fn(duration))]
    sync_latency: Option<Duration>,
    /// how long a list request takes (default 0ms)
    #[argh(option, from_str_fn(duration))]
    list_latency: Option<Duration>,
    /// so many requests in any window of this length, such as 10/60s, or none (default: the profile's)
    #[argh(option, from_str_fn(rate_limit))]
    rate_limit: Option<Limit>,
    /// how a 429 tells of the limit: body, seconds, date, ratelimit, x-delta, x-epoch, none (default: the profile's)
    #[argh(option, from_str_fn(hint))]
    hint: Option<Hint>,
    /// how long a token is good for (default: the profile's)
    #[argh(option, from_str_fn(duration))]
    token_lifetime: Option<Duration>,
    /// what a token answer says of that: honest (default), absent, or a number
    #[argh(option, from_str_fn(expires_in))]
    expires_in: Option<ExpiresIn>,
    /// a fault, see below; may be given again and again
    #[argh(option)]
    fault: Vec<String>,
    /// serve odd ids and values besides
    #[argh(switch)]
    odd: bool,
    /// count requests only, do not keep them
    #[argh(switch)]
    count_only: bool,
    /// a file to write the address to, whole, once it listens
    #[argh(option)]
    pub url_file: Option<PathBuf>,
    /// exit when standard input is closed
    #[argh(switch)]
    pub exit_with_stdin: bool,
}

#[derive(Clone, Copy)]
struct Limit(Option<(u32, Duration)>);

impl Options {
    /// The settings, and how long an outage there is at first.
    pub fn settings(&self) -> Result<(Settings, Duration), String> {
        if !self.time_scale.is_finite() || self.time_scale <= 0.0 {
            return Err("--time-scale must be a number above 0, such as 20".into());
        }
        let mut settings = match self.profile.as_str() {
            "faithful" => Settings::faithful(self.time_scale),
            "fast" => Settings::fast(self.campaigns),
            "hostile" => Settings::hostile(self.seed, self.campaigns),
            other => return Err(format!("--profile {other}: must be faithful, fast or hostile")),
        };
        settings.address = format!("127.0.0.1:{}", self.port);
        settings.campaigns = self.campaigns;
        settings.seed = self.seed;
        settings.odd |= self.odd;
        settings.full_ledger = !self.count_only;
        replace(&mut settings.email, self.email.as_ref());
        replace(&mut settings.password, self.password.as_ref());
        replace(&mut settings.sync_latency, self.sync_latency.as_ref());
        replace(&mut settings.list_latency, self.list_latency.as_ref());
        replace(&mut settings.token_lifetime, self.token_lifetime.as_ref());
        replace(&mut settings.expires_in, self.expires_in.as_ref());
        replace(&mut settings.hint, self.hint.as_ref());
        replace(&mut settings.rate_limit, self.rate_limit.as_ref().map(|limit| &limit.0));
        let mut outage = Duration::ZERO;
        for text in &self.fault {
            add_fault(&mut settings.faults, &mut outage, text)
                .map_err(|why| format!("--fault {text}: {why}; see --help"))?;
        }
        Ok((settings, outage))
    }
}

fn replace<T: Clone>(setting: &mut T, given: Option<&T>) {
    if let Some(given) = given {
        setting.clone_from(given);
    }
}

fn add_fault(faults: &mut Faults, outage: &mut Duration, text: &str) -> Result<(), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name {
        "hang" => faults.hang = pair(value, share, duration)?,
        "reset" => faults.reset = share(value)?,
        "cut-body" => faults.cut_body = share(value)?,
        "reset-in-body" => faults.reset_in_body = share(value)?,
        "drip" => faults.drip = pair(value, share, duration)?,
        "html" => faults.html = share(value)?,
        "other-json" => faults.other_json = share(value)?,
        "server-error" => faults.server_error = share(value)?,
        "redirect" => faults.redirect = Some(pair(value, share, |url| Ok(url.to_owned()))?),
        "endless-body" => faults.endless_body = share(value)?,
        "endless-headers" => faults.endless_headers = share(value)?,
        "gzip-bomb" => faults.gzip_bomb = share(value)?,
        "revoke-every" => faults.revoke_every = number(value)?.into(),
        "refused-every" => faults.refused_every = number(value)?,
        "forbidden-every" => faults.forbidden_every = number(value)?,
        "poisoned-every" => faults.poisoned_every = number(value)?,
        "hanging-every" => faults.hanging_every = pair(value, number, duration)?,
        "repeated-page" => faults.repeated_page = number(value)?.into(),
        "empty-page" => faults.empty_page = number(value)?.into(),
        "most-per-page" => faults.most_per_page = number(value)?,
        "outage" if !value.is_empty() => *outage = duration(value)?,
        _ => *switch(faults, name).filter(|_| value.is_empty()).ok_or("no such fault")? = true,
    }
    Ok(())
}

fn switch<'a>(faults: &'a mut Faults, name: &str) -> Option<&'a mut bool> {
    Some(match name {
        "on-tokens" => &mut faults.on_tokens,
        "duplicates" => &mut faults.duplicates,
        "endless" => &mut faults.endless,
        "outage" => &mut faults.outage,
        "outage-closes" => &mut faults.outage_closes,
        "sync-outage" => &mut faults.sync_outage,
        "list-outage" => &mut faults.list_outage,
        _ => return None,
    })
}

fn pair<A, B>(
    text: &str,
    first: impl Fn(&str) -> Result<A, String>,
    second: impl Fn(&str) -> Result<B, String>,
) -> Result<(A, B), String> {
    let (a, b) = text.split_once(':').ok_or("two values with `:` between them are needed")?;
    Ok((first(a)?, second(b)?))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` must be a number from 0 to 1"))
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` must be a whole number"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` must be a duration such as 500ms, 30s, 5m or 1h");
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let count: f64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(count * unit).map_err(|_| wrong())
}

fn rate_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let (requests, window) = text.split_once('/').ok_or("must be such as 10/60s, or none")?;
    Ok(Limit(Some((number(requests)?, duration(window)?))))
}

fn hint(text: &str) -> Result<Hint, String> {
    Ok(match text {
        "body" => Hint::Body,
        "seconds" => Hint::Seconds,
        "date" => Hint::Date,
        "ratelimit" => Hint::RateLimit,
        "x-delta" => Hint::XDelta,
        "x-epoch" => Hint::XEpoch,
        "none" => Hint::None,
        _ => return Err("must be body, seconds, date, ratelimit, x-delta, x-epoch or none".into()),
    })
}

fn expires_in(text: &str) -> Result<ExpiresIn, String> {
    match text {
        "honest" => Ok(ExpiresIn::Honest),
        "absent" => Ok(ExpiresIn::Absent),
        number => number
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .map(ExpiresIn::Fixed)
            .ok_or_else(|| "must be honest, absent or a number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<(Settings, Duration), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Options::from_args(&["mock-api"], &words).map_err(|exit| exit.output)?.settings()
    }

    #[test]
    fn every_option_is_kept() {
        let (settings, outage) = settings(
            "--profile fast --rate-limit 7/500ms --sync-latency 0.2s --hint x-epoch --expires-in absent \
             --fault hang=0.5:2m --fault hanging-every=3:1s --fault redirect=1:http://a:1/b --fault outage=9s \
             --fault duplicates --fault gzip-bomb=0.25",
        )
        .unwrap();
        assert_eq!(settings.rate_limit, Some((7, Duration::from_millis(500))));
        assert_eq!(settings.sync_latency, Duration::from_millis(200));
        assert_eq!((settings.hint, settings.expires_in), (Hint::XEpoch, ExpiresIn::Absent));
        let faults = settings.faults;
        assert_eq!(faults.hang, (0.5, Duration::from_secs(120)));
        assert_eq!(faults.hanging_every, (3, Duration::from_secs(1)));
        assert_eq!(faults.redirect, Some((1.0, "http://a:1/b".into())));
        assert!(faults.duplicates && !faults.outage && faults.gzip_bomb > 0.2);
        assert_eq!(outage, Duration::from_secs(9));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "--time-scale 0",
            "--time-scale NaN",
            "--profile slow",
            "--rate-limit 10",
            "--sync-latency 5",
            "--sync-latency -5s",
            "--sync-latency 1e300h",
            "--hint loud",
            "--expires-in inf",
            "--fault reset",
            "--fault reset=2",
            "--fault hang=0.1",
            "--fault duplicates=1",
            "--fault nothing",
        ] {
            assert!(settings(line).is_err(), "{line}");
        }
    }
}
