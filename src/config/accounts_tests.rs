use std::os::unix::fs::PermissionsExt;

use super::tests::{NOTHING, good, read};
use super::*;
use crate::scratch::Scratch;

/// A folder with an accounts file.
struct Folder(Scratch);

impl Folder {
    fn with(accounts: &str) -> Self {
        let folder = Scratch::new("accounts");
        std::fs::write(folder.path().join("accounts.toml"), accounts).unwrap();
        Self(folder)
    }

    fn flags(&self) -> Flags {
        let path = self.0.path().join("accounts.toml");
        Flags { accounts: Some(path.to_str().unwrap().into()), ..Flags::default() }
    }

    fn secret(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

const NORTH: &str =
    "[[account]]\nname = \"north\"\nemail = \"n@x.example\"\npassword_command = \"echo hunter2\"\n";

fn error(accounts: &str) -> String {
    let error = read(&Folder::with(accounts).flags(), &good()).expect_err(accounts);
    assert_eq!(error.lines().count(), 1, "{error:?}");
    assert!(!error.contains("hunter2"), "{error}");
    error
}

#[test]
fn what_the_file_says_beats_flags_and_the_rest_comes_from_them() {
    let folder = Folder::with(&format!(
        "{NORTH}workers = 3\nrate_limit = \"5/1s\"\n[[account]]\nname = \"south\"\nemail = \"s@x.example\"\n\
         api_url = \"https://south.example.com/base/\"\npassword_command = \"echo hunter3\"\n"
    ));
    let flags = Flags { workers: Some("7".into()), rate_limit: Some("10/60s".into()), ..folder.flags() };
    let config = read(&flags, &good()).unwrap();
    let [north, south] = &config.accounts[..] else { panic!("{config:?}") };
    assert_eq!((north.workers, south.workers), (3, 7));
    assert_eq!(north.rate_limit.unwrap().to_string(), "5/1s");
    assert_eq!(south.rate_limit.unwrap().to_string(), "10/60s");
    assert_eq!(north.api_url, "https://ads.example.com");
    assert_eq!(south.api_url, "https://south.example.com/base");
    let (one, other) = (north.password.get().unwrap(), south.password.get().unwrap());
    assert_eq!((one.reveal(), other.reveal()), ("hunter2", "hunter3"));
    let several = config.one_account().unwrap_err().0;
    assert!(several.contains("\"north\", \"south\"") && several.contains("--only"), "{several}");
}

#[test]
fn errors_name_the_file_the_line_and_an_example() {
    for (added, line, said) in [
        ("colour = 1", 5, "colour"),
        ("rate_limit = \"10\"", 5, "10/60s"),
        ("workers = 0", 5, "such as 16"),
        ("workers = \"hunter2\"", 5, "password_env"),
        ("page_size = 1001", 5, "such as 10"),
        ("timeout = \"soon\"", 5, "30s"),
        ("client_id = \"two words\"", 5, "nightly-sync"),
        ("api_url = \"https://me:hunter2@x.example\"", 5, "https://ads.example.com"),
        ("api_url = \"http://x.example\"", 5, "--allow-http"),
        ("email = \"again@x.example\"", 5, "duplicate key"),
        ("password = \"hunter2\"", 5, "password_env"),
        ("timeout = \"hunter2", 5, "[[account]]"),
        ("password_env = \"hunter2\"", 5, "only one"),
    ] {
        let error = error(&format!("{NORTH}{added}\n"));
        assert!(error.contains(&format!("accounts.toml line {line}:")), "{added}: {error}");
        assert!(error.contains(said), "{added}: {error}");
    }
}

#[test]
fn a_doubled_name_is_refused_at_its_line() {
    let error = error(&format!("{NORTH}{NORTH}"));
    assert!(error.contains("accounts.toml line 6:") && error.contains("accounts.toml line 2"), "{error}");
}

#[test]
fn a_password_in_place_of_a_variables_name_is_not_shown() {
    let text = NORTH.replace("password_command = \"echo hunter2\"", "password_env = \"hunter2\"");
    assert!(error(&text).contains("accounts.toml line 4: password_env"));
    let none = NORTH.replace("password_command = \"echo hunter2\"\n", "");
    assert!(error(&none).contains("has no password"));
}

#[test]
fn a_password_file_lies_beside_the_accounts_file_and_is_private() {
    let text = NORTH.replace("password_command = \"echo hunter2\"", "password_file = \"north.secret\"");
    let folder = Folder::with(&text);
    folder.secret("north.secret", "hunter2\n", 0o600);
    assert_eq!(
        read(&folder.flags(), &good()).unwrap().accounts[0].password.get().unwrap().reveal(),
        "hunter2"
    );
    for mode in [0o640, 0o604] {
        folder.secret("north.secret", "hunter2\n", mode);
        let error = read(&folder.flags(), &good()).unwrap_err();
        assert!(error.contains("chmod 600") && error.contains("north.secret"), "{error}");
        assert!(!error.contains("hunter2"));
    }
}

#[test]
fn of_many_accounts_a_few_are_named_and_the_one_that_was_meant() {
    let names: Vec<String> = (10..60).map(|number| format!("client-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let told = there_is("client-3", &names);
    assert!(
        told.starts_with("there is \"client-10\", ") && told.contains("\"client-19\" and 40 more; "),
        "{told}"
    );
    assert!(told.ends_with("; did you mean client-30?"), "{told}");
    assert_eq!(there_is("north", &[]), "there is none yet");
}

#[test]
fn only_chooses_and_names_what_there_is() {
    let off = NORTH.replace("north", "off") + "enabled = false\n";
    let broken = NORTH.replace("north", "broken") + "workers = 0\n";
    let folder = Folder::with(&format!("{NORTH}{off}{broken}"));
    let only = |name: &str| Flags { only: vec![name.into()], ..folder.flags() };
    let config = read(&only("north"), &good()).unwrap();
    assert_eq!(config.one_account().unwrap().name, "north");
    let unknown = read(&only("west"), &good()).unwrap_err();
    assert!(unknown.contains("\"north\", \"off\", \"broken\""), "{unknown}");
    assert!(read(&only("off"), &good()).unwrap_err().contains("enabled = true"));
    assert!(read(&only("broken"), &good()).unwrap_err().contains("such as 16"));
    let names = Config::account_names(&folder.flags(), NOTHING).unwrap();
    assert_eq!(names, ["broken", "north"], "no credentials are asked for");
    let alone = read(&Flags { only: vec!["west".into()], ..Flags::default() }, &good()).unwrap_err();
    assert!(alone.contains("--accounts"), "{alone}");
}

#[test]
fn an_account_that_is_wrong_does_not_hold_up_the_others() {
    let broken = NORTH.replace("north", "broken") + "timeout = \"soon\"\n";
    let config = read(&Folder::with(&format!("{broken}{NORTH}")).flags(), &good()).unwrap();
    assert_eq!(config.accounts.iter().map(|account| account.name.as_str()).collect::<Vec<_>>(), ["north"]);
    let [only] = &config.broken[..] else { panic!("{:?}", config.broken) };
    assert_eq!(only.name, "broken");
    assert!(only.error.0.contains("accounts.toml line 5: timeout"), "{}", only.error);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_an_example() {
    for accounts in ["", "/nonexistent/accounts.toml", "/dev/zero", "/"] {
        let flags = Flags { accounts: Some(accounts.into()), ..Flags::default() };
        let error = read(&flags, &good()).unwrap_err();
        assert!(error.contains("--accounts") && error.contains("such as"), "{error}");
    }
    assert!(error("").contains("no enabled account"));
    assert!(error("[[account]]\n").contains("name"));
}

proptest::proptest! {
    #[test]
    fn no_accounts_file_makes_it_panic_or_show_the_password(noise in "[a-z_=\"\\[\\]\n .0-9'\u{7}é]{0,40}") {
        let folder = Folder::with(&format!("{NORTH}{noise}"));
        if let Err(error) = read(&folder.flags(), &good()) {
            proptest::prop_assert!(!error.contains("hunter2"), "{}", error);
            proptest::prop_assert_eq!(error.lines().count(), 1);
            proptest::prop_assert!(!error.contains(char::is_control));
        }
    }
}
