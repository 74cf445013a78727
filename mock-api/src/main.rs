//! The program `mock-api`: the platform on a port, until SIGINT or SIGTERM.

mod options;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use options::Options;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    match run(&argh::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mock-api: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    let (settings, outage) = options.settings()?;
    let address = settings.address.clone();
    let server = mock_api::start(settings)
        .map_err(|error| format!("cannot listen on {address}: {error}; see --port"))?;
    server.outage_for(outage);
    writeln!(io::stdout(), "listening on {}", server.url()).map_err(|error| error.to_string())?;
    if let Some(file) = &options.url_file {
        write_whole(file, &server.url())
            .map_err(|error| format!("--url-file {}: {error}", file.display()))?;
    }
    if options.exit_with_stdin {
        let ended = signals.handle();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while io::stdin().read(&mut some).is_ok_and(|read| read > 0) {}
            ended.close();
        });
    }
    let _signal = signals.forever().next();
    server.stop();
    Ok(())
}

/// Writes the file so that whoever waits for it never sees a part of it.
fn write_whole(file: &Path, line: &str) -> io::Result<()> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    std::fs::write(&unfinished, format!("{line}\n"))?;
    std::fs::rename(unfinished, file)
}
