//! The program `mock-api`: the platform on a port, until SIGINT or SIGTERM.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;
use mock_api::{Hint, Settings};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The ad platform, mocked. Prints `listening on http://ADDRESS` once it does.
#[derive(FromArgs)]
struct Options {
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
    /// how long a sync takes, in milliseconds (default: the profile's)
    #[argh(option)]
    sync_latency_ms: Option<u64>,
    /// how a 429 tells of the limit: body, seconds, date, ratelimit, x-delta, x-epoch, none (default: the profile's)
    #[argh(option)]
    hint: Option<String>,
    /// serve odd ids and values besides
    #[argh(switch)]
    odd: bool,
    /// count requests only, do not keep them
    #[argh(switch)]
    count_only: bool,
    /// exit when standard input is closed
    #[argh(switch)]
    exit_with_stdin: bool,
}

fn main() -> ExitCode {
    match run(argh::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mock-api: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    let exit_with_stdin = options.exit_with_stdin;
    let server = mock_api::start(settings(options)?).map_err(|error| format!("cannot listen: {error}"))?;
    println!("listening on {}", server.url());
    io::stdout().flush().map_err(|error| error.to_string())?;
    if exit_with_stdin {
        let ended = signals.handle();
        std::thread::spawn(move || {
            let _closed = io::stdin().read_to_end(&mut Vec::new());
            ended.close();
        });
    }
    let _signal = signals.forever().next();
    drop(server);
    Ok(())
}

fn settings(options: Options) -> Result<Settings, String> {
    if !options.time_scale.is_finite() || options.time_scale <= 0.0 {
        return Err("--time-scale must be a number above 0, such as 20".into());
    }
    let mut settings = match options.profile.as_str() {
        "faithful" => Settings::faithful(options.time_scale),
        "fast" => Settings::fast(options.campaigns),
        "hostile" => Settings::hostile(options.seed, options.campaigns),
        other => return Err(format!("--profile {other}: must be faithful, fast or hostile")),
    };
    settings.address = format!("127.0.0.1:{}", options.port);
    settings.campaigns = options.campaigns;
    settings.seed = options.seed;
    settings.odd |= options.odd;
    settings.full_ledger = !options.count_only;
    if let Some(millis) = options.sync_latency_ms {
        settings.sync_latency = Duration::from_millis(millis);
    }
    settings.hint = match options.hint.as_deref() {
        None => settings.hint,
        Some("body") => Hint::Body,
        Some("seconds") => Hint::Seconds,
        Some("date") => Hint::Date,
        Some("ratelimit") => Hint::RateLimit,
        Some("x-delta") => Hint::XDelta,
        Some("x-epoch") => Hint::XEpoch,
        Some("none") => Hint::None,
        Some(other) => {
            return Err(format!(
                "--hint {other}: must be body, seconds, date, ratelimit, x-delta, x-epoch or none"
            ));
        }
    };
    Ok(settings)
}
