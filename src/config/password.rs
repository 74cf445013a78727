//! Where the password comes from: a variable, a file, a command, or systemd's credentials; never a flag.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::toml_file::shown;
use super::{ConfigError, Environment};
use crate::http::Secret;
use crate::in_time::in_time;
use crate::own_machine::Shortage;
use crate::settings_file;

const VALUE: &str = "AD_PLATFORM_PASSWORD";
const FILE: &str = "AD_PLATFORM_PASSWORD_FILE";
const COMMAND: &str = "AD_PLATFORM_PASSWORD_COMMAND";
/// What a password command is not told; nor is any variable whose name begins with [`VALUE`].
const HIDDEN: [&str; 2] = ["DATABASE_URL", "PGPASSWORD"];
/// A longer password is some other file, and would not fit into a header.
pub(crate) const MOST_BYTES: usize = 4 << 10;
/// How long a secret manager may take.
pub(crate) const COMMAND_TIME: Duration = Duration::from_secs(30);
/// How soon it is started again when this machine had nothing left for it.
const SHORTAGE_WAIT: Duration = Duration::from_millis(100);

/// A password, or the command that prints it, which is run when the password is needed: a secret manager takes its time.
#[derive(Clone, Debug)]
pub enum Password {
    /// Known already.
    Known(Secret),
    /// Printed by this command.
    Command {
        /// The setting that names it.
        source: String,
        /// A line for the shell.
        line: OsString,
        /// Variables with the passwords of other accounts, of which it is not told.
        hidden: Arc<[String]>,
    },
}

impl Password {
    /// The password.
    ///
    /// # Errors
    /// When the command fails, takes longer than 30 s, or prints no password.
    pub fn get(&self) -> Result<Secret, ConfigError> {
        match self {
            Self::Known(secret) => Ok(secret.clone()),
            Self::Command { source, line, hidden } => command(source, line, hidden),
        }
    }
}

/// The password, from the one source that is set.
pub(super) fn password(environment: Environment<'_>) -> Result<Password, ConfigError> {
    let set = |name: &'static str| super::value(environment, name).map(|value| (name, value));
    let mut sources = [VALUE, FILE, COMMAND].into_iter().filter_map(set);
    let first = sources.next();
    let named_in_file =
        |name| environment.file.and_then(|file| Some((file.given(name)?, file.folder(name)?)));
    if first.is_none() {
        match (named_in_file(FILE), named_in_file(COMMAND)) {
            (Some((one, _)), Some((other, _))) => {
                return Err(ConfigError(format!(
                    "{} and {} are both set; set only one of them",
                    one.name, other.name
                )));
            }
            (Some((given, folder)), None) => {
                return private_file(&given.name, folder, &given.text, environment).map(Password::Known);
            }
            (None, Some((given, _))) => {
                return Ok(Password::Command {
                    source: given.name,
                    line: given.text.into(),
                    hidden: Arc::default(),
                });
            }
            (None, None) => {}
        }
    }
    if let (Some((one, _)), Some((other, _))) = (&first, sources.next()) {
        return Err(ConfigError(format!("{one} and {other} are both set; set only one of them")));
    }
    let known = match first {
        Some((COMMAND, line)) => {
            return Ok(Password::Command { source: COMMAND.into(), line, hidden: Arc::default() });
        }
        Some((VALUE, value)) => text(VALUE, value),
        Some((_, path)) => {
            let path = Path::new(&path);
            let source = match may_be_shown(path, path) {
                true => format!("{FILE}={}", shown(path)),
                false => format!("{FILE} ({NOT_SHOWN})"),
            };
            private(&source, path, environment)
        }
        None => match super::value(environment, "CREDENTIALS_DIRECTORY") {
            Some(folder) => {
                let path = Path::new(&folder).join("ad_platform_password");
                private(&format!("CREDENTIALS_DIRECTORY: {}", shown(&path)), &path, environment)
            }
            None => Err(ConfigError(format!(
                "no password: set {VALUE}, or {FILE}=/run/secrets/ad-platform, or {COMMAND}='pass show ad-platform'"
            ))),
        },
    };
    known.map(Password::Known)
}

pub(super) fn text(source: &str, value: OsString) -> Result<Secret, ConfigError> {
    let value =
        value.into_string().map_err(|_| ConfigError(format!("{source}: the password is not UTF-8")))?;
    checked(source, value)
}

const NOT_SHOWN: &str = "its value is not shown, it might be the password itself";

/// Whether an error may show a file's name: people put the password itself there by mistake. It is none if it begins with a
/// slash, or the file is there, or at least the folder that is given with it.
fn may_be_shown(given: &Path, path: &Path) -> bool {
    let has_folder = given.parent().is_some_and(|folder| !folder.as_os_str().is_empty());
    given.is_absolute() || path.exists() || (has_folder && path.parent().is_some_and(Path::is_dir))
}

/// A file of that name, which may begin at a folder.
pub(super) fn private_file(
    source: &str,
    folder: &Path,
    given: &str,
    environment: Environment<'_>,
) -> Result<Secret, ConfigError> {
    let path = folder.join(given);
    let source = match may_be_shown(Path::new(given), &path) {
        true => format!("{source} = \"{}\"", shown(&path)),
        false => format!("{source} ({NOT_SHOWN})"),
    };
    private(&source, &path, environment)
}

/// Folders that are made for secrets: whoever mounts them decides who may look into them, and the files' modes say nothing.
const OF_SECRETS: [&str; 3] = ["/run/secrets", "/var/run/secrets", "/run/credentials"];

/// A file that nobody else may change, and nobody else may read unless it is in a folder for secrets.
fn private(source: &str, path: &Path, environment: Environment<'_>) -> Result<Secret, ConfigError> {
    let opened = File::open(path);
    // Asked of the opened file: the path may name another one a moment later.
    let about = opened.as_ref().ok().and_then(|file| file.metadata().ok()).filter(Metadata::is_file);
    if let Some(mode) = about.map(|about| about.mode() & 0o777) {
        let credentials = super::value(environment, "CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let mut folders = OF_SECRETS.into_iter().map(PathBuf::from).chain(credentials);
        let forbidden = if folders.any(|folder| path.starts_with(folder)) { 0o022 } else { 0o077 };
        if mode & forbidden != 0 {
            return Err(ConfigError(format!(
                "{source}: others may {} it (mode {mode:03o}); run: chmod 600 \"{}\"",
                if mode & 0o022 == 0 { "read" } else { "read or change" },
                shown(path)
            )));
        }
    }
    read(source, opened)
}

fn read(source: &str, opened: io::Result<File>) -> Result<Secret, ConfigError> {
    let bytes = opened.and_then(|file| settings_file::read_opened(file, MOST_BYTES)).map_err(|error| {
        ConfigError(match error.kind() {
            io::ErrorKind::FileTooLarge => format!("{source}: more than {MOST_BYTES} bytes are no password"),
            _ => format!(
                "{source}: cannot read the password: {error}; it must be a readable file, such as /run/secrets/ad-platform"
            ),
        })
    })?;
    decoded(source, &bytes)
}

/// What the shell command `line` prints.
fn command(source: &str, line: &OsStr, hidden: &[String]) -> Result<Secret, ConfigError> {
    let failed = |cause: &str| {
        ConfigError(format!(
            "{source}: {cause}; it must print the password and exit 0, such as 'pass show ad-platform'"
        ))
    };
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(line).stdin(Stdio::null()).stdout(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let secret = name.as_encoded_bytes().starts_with(VALUE.as_bytes())
            || HIDDEN.iter().any(|hidden| name == *hidden)
            || hidden.iter().any(|hidden| name == **hidden);
        if secret {
            shell.env_remove(name);
        }
    }
    let mut child = started(&mut shell).map_err(|error| failed(&error.to_string()))?;
    let output = output_of(&mut child).map_err(|error| failed(&format!("cannot start a thread: {error}")));
    if !matches!(output, Ok(Some(_))) {
        let _ended_by_itself = child.kill();
    }
    let status = child.wait().map_err(|error| failed(&error.to_string()))?;
    let Some(output) = output? else {
        return Err(failed(&format!("no end after {} s", COMMAND_TIME.as_secs())));
    };
    if !status.success() {
        return Err(failed(&status.to_string()));
    }
    decoded(source, &output)
}

/// Starts it; while this machine has no more files for it, as with many accounts, again and again.
fn started(command: &mut Command) -> io::Result<Child> {
    let begun = Instant::now();
    loop {
        match command.spawn() {
            Err(error) if begun.elapsed() < COMMAND_TIME && Shortage::behind(&error).is_some() => {
                thread::sleep(SHORTAGE_WAIT);
            }
            other => return other,
        }
    }
}

/// The command's output; nothing when it takes too long.
fn output_of(child: &mut Child) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(stdout) = child.stdout.take() else { return Ok(None) };
    in_time("password", COMMAND_TIME, move || {
        let mut output = Zeroizing::new(Vec::with_capacity(MOST_BYTES + 1));
        let _cut_short_is_told_by_the_status = stdout.take(MOST_BYTES as u64 + 1).read_to_end(&mut output);
        output
    })
}

fn decoded(source: &str, bytes: &[u8]) -> Result<Secret, ConfigError> {
    if bytes.len() > MOST_BYTES {
        return Err(ConfigError(format!("{source}: more than {MOST_BYTES} bytes are no password")));
    }
    let value = std::str::from_utf8(bytes)
        .map_err(|_| ConfigError(format!("{source}: the password is not UTF-8")))?;
    let value = value.strip_prefix('\u{feff}').unwrap_or(value);
    let value = value.strip_suffix('\n').unwrap_or(value);
    checked(source, value.strip_suffix('\r').unwrap_or(value).to_owned())
}

fn checked(source: &str, value: String) -> Result<Secret, ConfigError> {
    let secret = Secret::new(value);
    if secret.reveal().len() > MOST_BYTES {
        return Err(ConfigError(format!("{source}: more than {MOST_BYTES} bytes are no password")));
    }
    if secret.reveal().is_empty() {
        return Err(ConfigError(format!("{source}: the password is empty")));
    }
    if secret.reveal().contains(['\0', '\r', '\n']) {
        return Err(ConfigError(format!("{source}: the password has more than one line")));
    }
    if secret.reveal().trim() != secret.reveal() {
        log::warn!("{source}: the password begins or ends with a blank; it is sent with it, is that right?");
    }
    Ok(secret)
}
