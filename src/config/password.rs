//! Where the password comes from: a variable, a file, a command, or systemd's credentials; never a flag.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{ConfigError, Environment};
use crate::http::Secret;

const VALUE: &str = "AD_PLATFORM_PASSWORD";
const FILE: &str = "AD_PLATFORM_PASSWORD_FILE";
const COMMAND: &str = "AD_PLATFORM_PASSWORD_COMMAND";
/// A longer password is some other file.
const MOST_BYTES: u64 = 64 << 10;
/// How long a secret manager may take.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// The password, from the one source that is set.
pub(super) fn password(environment: Environment<'_>) -> Result<Secret, ConfigError> {
    let set = |name: &'static str| super::value(environment, name).map(|value| (name, value));
    let mut sources = [VALUE, FILE, COMMAND].into_iter().filter_map(set);
    let first = sources.next();
    if let (Some((one, _)), Some((other, _))) = (&first, sources.next()) {
        return Err(ConfigError(format!("{one} and {other} are both set; set only one of them")));
    }
    match first {
        Some((VALUE, value)) => text(VALUE, value),
        Some((FILE, path)) => file(&format!("{FILE}={}", path.to_string_lossy()), Path::new(&path)),
        Some((_, command)) => run(&command),
        None => match super::value(environment, "CREDENTIALS_DIRECTORY") {
            Some(folder) => {
                let path = Path::new(&folder).join("ad_platform_password");
                file(&format!("CREDENTIALS_DIRECTORY: {}", path.display()), &path)
            }
            None => Err(ConfigError(format!(
                "no password: set {VALUE}, or {FILE}=/run/secrets/ad-platform, or {COMMAND}='pass show ad-platform'"
            ))),
        },
    }
}

fn text(source: &str, value: OsString) -> Result<Secret, ConfigError> {
    let value =
        value.into_string().map_err(|_| ConfigError(format!("{source}: the password is not UTF-8")))?;
    checked(source, value)
}

fn file(source: &str, path: &Path) -> Result<Secret, ConfigError> {
    let unreadable =
        |error: std::io::Error| ConfigError(format!("{source}: cannot read the password: {error}"));
    let mut bytes = Zeroizing::new(Vec::new());
    std::fs::File::open(path)
        .map_err(unreadable)?
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    decoded(source, &bytes)
}

fn run(command: &OsString) -> Result<Secret, ConfigError> {
    let failed =
        |cause: &str| ConfigError(format!("{COMMAND}: {cause}; it must print the password and exit 0"));
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env_remove(VALUE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error.to_string()))?;
    let output = in_time(&mut child);
    if output.is_none() {
        let _ended_by_itself = child.kill();
    }
    let status = child.wait().map_err(|error| failed(&error.to_string()))?;
    let Some(output) = output else {
        return Err(failed(&format!("no end after {} s", COMMAND_TIME.as_secs())));
    };
    if !status.success() {
        return Err(failed(&status.to_string()));
    }
    decoded(COMMAND, &output)
}

/// The command's output; nothing when it takes too long.
fn in_time(child: &mut Child) -> Option<Zeroizing<Vec<u8>>> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut output = Zeroizing::new(Vec::new());
        let _cut_short_is_told_by_the_status = stdout.take(MOST_BYTES + 1).read_to_end(&mut output);
        let _nobody_waits = sender.send(output);
    });
    receiver.recv_timeout(COMMAND_TIME).ok()
}

fn decoded(source: &str, bytes: &[u8]) -> Result<Secret, ConfigError> {
    if bytes.len() as u64 > MOST_BYTES {
        return Err(ConfigError(format!("{source}: more than {MOST_BYTES} bytes are no password")));
    }
    let value = std::str::from_utf8(bytes)
        .map_err(|_| ConfigError(format!("{source}: the password is not UTF-8")))?;
    let value = value.strip_suffix('\n').unwrap_or(value);
    checked(source, value.strip_suffix('\r').unwrap_or(value).to_owned())
}

fn checked(source: &str, value: String) -> Result<Secret, ConfigError> {
    let secret = Secret::new(value);
    if secret.reveal().is_empty() {
        return Err(ConfigError(format!("{source}: the password is empty")));
    }
    if secret.reveal().contains(['\0', '\r', '\n']) {
        return Err(ConfigError(format!("{source}: the password has more than one line")));
    }
    Ok(secret)
}
