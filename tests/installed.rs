//! What is installed fits the machine: its manual page, completions and units are what their readers take.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use support::Folder;

const PROGRAM: &str = env!("CARGO_BIN_EXE_campaign-sync");

/// An installation in a folder of its own.
struct Installed(Folder);

impl Installed {
    fn new(name: &str) -> Self {
        let folder = Folder::new(&format!("install-{name}"));
        let page = folder.path("page");
        std::fs::write(&page, campaign_sync::report::man::page(&campaign_sync::cli::described())).unwrap();
        let installed = Self(folder);
        let done = installed.script(&[PROGRAM, &page]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::remove_file(page).unwrap();
        installed
    }

    fn script(&self, arguments: &[&str]) -> Output {
        Command::new("bash")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/install.sh"))
            .args(arguments)
            .env("DESTDIR", self.0.as_path())
            .env("PREFIX", "/opt/sync")
            .output()
            .unwrap()
    }

    fn path(&self, place: &str) -> String {
        self.0.path(&format!("opt/sync/{place}"))
    }

    fn files(&self) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.as_path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let place =
                        entry.path().strip_prefix(self.0.as_path()).unwrap().to_str().unwrap().to_owned();
                    found.push((place, entry.metadata().unwrap().permissions().mode() & 0o777));
                }
            }
        }
        found.sort();
        found
    }
}

/// Runs a checker; nothing, with a line that says so, when this machine does not have it.
fn check(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
            Some(said)
        }
        Err(_) => {
            println!("{program} is not here: not checked by it");
            None
        }
    }
}

#[test]
fn everything_is_in_its_conventional_place_and_goes_away_again() {
    let installed = Installed::new("places");
    let expected = [
        ("opt/sync/bin/campaign-sync", 0o755),
        ("opt/sync/lib/systemd/system/campaign-sync.service", 0o644),
        ("opt/sync/lib/systemd/system/campaign-sync.timer", 0o644),
        ("opt/sync/share/bash-completion/completions/campaign-sync", 0o644),
        ("opt/sync/share/fish/vendor_completions.d/campaign-sync.fish", 0o644),
        ("opt/sync/share/man/man1/campaign-sync.1", 0o644),
        ("opt/sync/share/zsh/site-functions/_campaign-sync", 0o644),
    ];
    assert_eq!(installed.files(), expected.map(|(place, mode)| (place.to_owned(), mode)));
    assert!(installed.script(&["--remove"]).status.success());
    assert_eq!(installed.files(), []);
}

#[test]
fn shells_can_read_their_completions() {
    let installed = Installed::new("shells");
    check("bash", &["-n", &installed.path("share/bash-completion/completions/campaign-sync")]);
    check("zsh", &["-n", &installed.path("share/zsh/site-functions/_campaign-sync")]);
    check("fish", &["-n", &installed.path("share/fish/vendor_completions.d/campaign-sync.fish")]);
}

#[test]
fn the_manual_page_is_one_that_man_can_read_without_a_warning() {
    let installed = Installed::new("man");
    let page = installed.path("share/man/man1/campaign-sync.1");
    for (program, arguments) in
        [("groff", ["-man", "-ww", "-Tutf8", "-z"].as_slice()), ("mandoc", &["-T", "lint", "-W", "error"])]
    {
        if let Some(said) = check(program, &[arguments, &[page.as_str()]].concat()) {
            assert_eq!(said, "", "{program}");
        }
    }
}

#[test]
fn systemd_takes_the_units_and_knows_every_setting_in_them() {
    let installed = Installed::new("units");
    let service = installed.path("lib/systemd/system/campaign-sync.service");
    let text = std::fs::read_to_string(&service).unwrap();
    assert!(text.contains("ExecStart=/opt/sync/bin/campaign-sync sync "), "{text}");
    // For the check, where the program is now.
    std::fs::write(&service, text.replace("/opt/sync/bin", &installed.path("bin"))).unwrap();
    let timer = installed.path("lib/systemd/system/campaign-sync.timer");
    if let Some(said) = check("systemd-analyze", &["verify", "--man=no", &service, &timer]) {
        assert_eq!(said, "");
    }
}
