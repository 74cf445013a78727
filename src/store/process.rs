//! Who a process is, so that others can tell whether it still runs: by its silence, or, on the same machine, by a look.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::{fs, io};

use ring::rand::{SecureRandom, SystemRandom};

use super::queue::WorkerId;

/// A process as a worker's row describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The machine's name, for people.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// The boot, the namespaces of pids and of time, and the user: who has the same ones sees the same processes. None where
    /// that cannot be told.
    pub machine: Option<String>,
    /// When it was started, in clock ticks since the boot: a pid is used again, but not from the same moment on.
    pub started: Option<i64>,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<Process> = OnceLock::new();
        CURRENT.get_or_init(Self::look)
    }

    fn look() -> Self {
        let pid = std::process::id();
        // Else what is mounted there shows the processes of another namespace.
        let own = fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == pid.to_string().as_str());
        let started = if own { started(pid).unwrap_or_default() } else { None };
        let machine = started.and_then(|_| machine());
        Self { host: host_name(), pid, machine, started }
    }

    /// Whether the other one can be seen from here to be gone. What cannot be seen is not gone.
    #[must_use]
    pub fn sees_gone(&self, other: &Self) -> bool {
        self.machine.is_some()
            && self.machine == other.machine
            && self.host == other.host
            && other.started.is_some()
            && started(other.pid).is_ok_and(|started| started != other.started)
    }
}

/// A number for a worker that nobody else has. It is made here, not by the database: a registration of which nobody heard is
/// made again under the same number, and a database that forgets its newest commits gives no number twice.
#[must_use]
pub fn new_worker_id() -> WorkerId {
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes).is_ok();
    let random = WorkerId::from_le_bytes(bytes) & WorkerId::MAX;
    if filled && random != 0 { random } else { fallback() }
}

/// Where the system has no randomness: the moment and the pid.
fn fallback() -> WorkerId {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let nanos = WorkerId::try_from(since.as_nanos() & 0x3fff_ffff_ffff).unwrap_or(1);
    (nanos << 16 | WorkerId::from(std::process::id() & 0xffff)).max(1)
}

fn machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot = boot.trim();
    if boot.is_empty() {
        return None;
    }
    let namespace = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
    let pids = namespace("pid")?;
    // Not every kernel has those of time.
    let time = namespace("time").unwrap_or_default();
    // Where those of others are hidden, one's own may be too.
    fs::metadata("/proc/1/stat").ok()?;
    let user = fs::metadata("/proc/self").ok()?.uid();
    Some(format!("{boot} {} {} uid:{user}", pids.display(), time.display()))
}

/// When this process was started; none when it is over. An error when that cannot be told: no file may be left to open.
fn started(pid: u32) -> io::Result<Option<i64>> {
    const ESRCH: i32 = 3;
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => String::from_utf8_lossy(&stat).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Behind the program's name, which may have anything in it: the state is the third field, the start the 22nd.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X" | "x")) {
        return Ok(None);
    }
    let ticks = fields.nth(18).and_then(|ticks| ticks.parse().ok());
    ticks.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The machine's name, for people who ask who holds a lease.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(255).collect();
    if name.is_empty() { "unknown".into() } else { name }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_seen_to_be_gone_only_by_who_sees_the_same_processes() {
        let current = Process::look();
        if current.machine.is_none() {
            return;
        }
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let other = Process { pid: child.id(), started: started(child.id()).unwrap(), ..current.clone() };
        assert!(other.started.is_some());
        assert!(!current.sees_gone(&current) && !current.sees_gone(&other), "both are alive");
        let later = Process { started: other.started.map(|ticks| ticks + 1), ..other.clone() };
        assert!(current.sees_gone(&later), "its pid is another process by now");
        drop(child.stdin.take());
        let _status = child.wait().unwrap();
        assert!(current.sees_gone(&other));
        let elsewhere = |machine: &str| Process { machine: Some(machine.into()), ..other.clone() };
        assert!(!current.sees_gone(&elsewhere("another boot")));
        assert!(!current.sees_gone(&Process { host: "another".into(), ..other.clone() }));
        assert!(!current.sees_gone(&Process { machine: None, ..other.clone() }));
        assert!(!current.sees_gone(&Process { started: None, ..other.clone() }));
        assert!(!Process { machine: None, ..current }.sees_gone(&Process { machine: None, ..other }));
        assert!(started(u32::MAX).is_ok_and(|started| started.is_none()));
    }

    #[test]
    fn no_two_workers_have_the_same_number() {
        let (one, other) = (new_worker_id(), new_worker_id());
        assert!(one > 0 && other > 0 && one != other);
        assert!(fallback() > 0);
    }
}
