//! What is installed fits the machine: its manual page, completions and units are what their readers take.

#[allow(dead_code, reason = "it is a program as well")]
#[path = "../support/bill_of_materials.rs"]
mod bill_of_materials;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use crate::support::Folder;

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

/// Runs a checker; what it said on stdout and stderr; nothing, with a line that says so, when this machine does not have it.
fn check(program: &str, arguments: &[&str]) -> Option<(String, String)> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
            Some((String::from_utf8_lossy(&output.stdout).into_owned(), said))
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
        ("opt/sync/lib/systemd/system/campaign-sync-accounts.service", 0o644),
        ("opt/sync/lib/systemd/system/campaign-sync-accounts.timer", 0o644),
        ("opt/sync/lib/systemd/system/campaign-sync.service", 0o644),
        ("opt/sync/lib/systemd/system/campaign-sync.timer", 0o644),
        ("opt/sync/lib/sysusers.d/campaign-sync.conf", 0o644),
        ("opt/sync/share/bash-completion/completions/campaign-sync", 0o644),
        ("opt/sync/share/campaign-sync/grafana-dashboard.json", 0o644),
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
        if let Some((_, said)) = check(program, &[arguments, &[page.as_str()]].concat()) {
            assert_eq!(said, "", "{program}");
        }
    }
}

/// The services: of one account, and of many.
const SERVICES: [&str; 2] = ["campaign-sync", "campaign-sync-accounts"];

impl Installed {
    /// A service's unit, with the program where it is now, for checkers that look for it.
    fn unit(&self, service: &str) -> (String, String) {
        let path = self.path(&format!("lib/systemd/system/{service}.service"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("ExecStart=/opt/sync/bin/campaign-sync sync "), "{text}");
        std::fs::write(&path, text.replace("/opt/sync/bin", &self.path("bin"))).unwrap();
        (path, text)
    }
}

#[test]
fn systemd_takes_the_units_and_knows_every_setting_in_them() {
    let installed = Installed::new("units");
    for service in SERVICES {
        let (path, _) = installed.unit(service);
        let timer = installed.path(&format!("lib/systemd/system/{service}.timer"));
        // Users that only an installed system has are no fault of the unit.
        if let Some((_, said)) = check("systemd-analyze", &["verify", "--man=no", &path, &timer]) {
            assert_eq!(said, "");
        }
    }
}

#[test]
fn the_units_give_away_no_more_than_a_sync_needs() {
    let installed = Installed::new("sandbox");
    let sandbox = |text: &str| text.split("UMask").next().unwrap().split("User=").nth(1).unwrap().to_owned();
    let units = SERVICES.map(|service| installed.unit(service));
    assert_eq!(sandbox(&units[0].1), sandbox(&units[1].1));
    for (path, _) in units {
        // Older ones look only at units that are loaded.
        if !check("systemd-analyze", &["--help"]).is_some_and(|(told, _)| told.contains("--offline")) {
            continue;
        }
        // The exposure, in tenths, from 0 to 100.
        check("systemd-analyze", &["security", "--offline=yes", "--no-pager", "--threshold=20", &path]);
    }
}

#[test]
fn the_services_keep_metrics_where_node_exporter_can_read_them() {
    let installed = Installed::new("metrics");
    let mut files = Vec::new();
    for service in SERVICES {
        let (_, text) = installed.unit(service);
        let file =
            text.split("--metrics-file ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        let folder = file.rsplit_once('/').unwrap().0.strip_prefix("/var/lib/").unwrap();
        let folders = text.lines().find_map(|line| line.strip_prefix("StateDirectory=")).unwrap();
        assert!(folders.split(' ').any(|one| one == folder), "{file} is in none of {folders}");
        assert!(text.contains("\nStateDirectoryMode=0755\n"), "{text}");
        // A dynamic user's folder can be entered by root alone.
        assert!(text.contains("\nUser=campaign-sync\n") && !text.contains("DynamicUser"), "{text}");
        files.push(file.to_owned());
    }
    assert_ne!(files[0], files[1], "each service counts for itself");
}

/// What is said of the program's contents, by what cargo says of this checkout.
fn document(name: &str) -> String {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform"])
        .arg("x86_64-unknown-linux-gnu")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    bill_of_materials::document(name, "rustc 1.0", &String::from_utf8(metadata.stdout).unwrap()).unwrap()
}

#[test]
fn the_bill_of_materials_names_what_is_linked_and_nothing_else() {
    let bill: serde_json::Value = serde_json::from_str(&document("sbom")).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let components = bill["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    let ureq = named("ureq").unwrap();
    assert!(ureq["hashes"][0]["content"].as_str().is_some_and(|hash| hash.len() == 64), "{ureq}");
    assert!(components.iter().all(|component| component["licenses"][0]["expression"].is_string()), "{bill}");
    // Tests and build scripts only.
    assert!(named("proptest").is_none() && named("cc").is_none() && named("musl libc").is_some());
    let known = |reference: &serde_json::Value| {
        bill["metadata"]["component"]["bom-ref"] == *reference
            || components.iter().any(|component| component["bom-ref"] == *reference)
    };
    for dependency in bill["dependencies"].as_array().unwrap() {
        assert!(known(&dependency["ref"]), "{dependency}");
        assert!(dependency["dependsOn"].as_array().unwrap().iter().all(known), "{dependency}");
    }
}

#[test]
fn every_linked_crate_comes_with_its_licence_text() {
    let text = document("licences");
    assert!(text.contains("\n  ureq 3.") && text.contains("musl libc"), "{text}");
    assert!(!text.contains("ships no licence file"), "{text}");
}
