use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::scratch::Scratch;

/// No variable is set.
pub(super) const NOTHING: Environment<'static> = Environment { variables: &|_| None, file: None };

pub(super) type Variables<'a> = HashMap<&'a str, &'a str>;

pub(super) fn good() -> Variables<'static> {
    HashMap::from([
        ("AD_PLATFORM_API_URL", "https://ads.example.com/"),
        ("AD_PLATFORM_EMAIL", "ads@example.com"),
        ("AD_PLATFORM_PASSWORD", "hunter2"),
    ])
}

pub(super) fn read(flags: &Flags, variables: &Variables<'_>) -> Result<Config, String> {
    let variables = |name: &str| variables.get(name).map(OsString::from);
    Config::for_api(flags, Environment { variables: &variables, file: None }).map_err(|error| error.0)
}

fn with(name: &'static str, value: &'static str) -> Variables<'static> {
    let mut variables = good();
    variables.insert(name, value);
    variables
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = read(&Flags::default(), &good()).unwrap();
    assert_eq!(config.accounts[0].api_url, "https://ads.example.com");
    assert_eq!(
        (config.accounts[0].workers, config.accounts[0].page_size, config.accounts[0].max_attempts),
        (16, 10, 5)
    );
    assert_eq!((config.max_removed, config.deadline, config.fresh, config.migrate), (20, None, false, true));
    let seconds = [config.accounts[0].timeout, config.give_up_after, config.max_wait, config.max_run_age];
    assert_eq!(seconds.map(|duration| duration.as_secs()), [30, 300, 900, 7 * 86_400]);
    assert_eq!(config.keep_history, Some(std::time::Duration::from_secs(400 * 86_400)));
    let off = Flags { keep_history: Some("0".into()), ..Flags::default() };
    assert_eq!(read(&off, &good()).unwrap().keep_history, None);
}

#[test]
fn a_flag_beats_the_environment_and_an_empty_variable_is_unset() {
    let flags = Flags { workers: Some("7".into()), ..Flags::default() };
    assert_eq!(read(&flags, &with("CAMPAIGN_SYNC_WORKERS", "9")).unwrap().accounts[0].workers, 7);
    assert_eq!(read(&Flags::default(), &with("CAMPAIGN_SYNC_WORKERS", "9")).unwrap().accounts[0].workers, 9);
    assert_eq!(read(&Flags::default(), &with("CAMPAIGN_SYNC_WORKERS", "")).unwrap().accounts[0].workers, 16);
}

#[test]
fn nonsense_is_answered_with_the_settings_name_and_a_valid_example() {
    type Set = fn(&mut Flags, String);
    let flags: [(&str, &str, Set); 13] = [
        ("--api-url", "https://ads.example.com", |flags, text| flags.api_url = Some(text)),
        ("--client-id", "nightly-sync", |flags, text| flags.client_id = Some(text)),
        ("--workers", "16", |flags, text| flags.workers = Some(text)),
        ("--page-size", "10", |flags, text| flags.page_size = Some(text)),
        ("--rate-limit", "10/60s", |flags, text| flags.rate_limit = Some(text)),
        ("--timeout", "30s", |flags, text| flags.timeout = Some(text)),
        ("--max-attempts", "5", |flags, text| flags.max_attempts = Some(text)),
        ("--give-up-after", "5m", |flags, text| flags.give_up_after = Some(text)),
        ("--max-wait", "5m", |flags, text| flags.max_wait = Some(text)),
        ("--deadline", "1h", |flags, text| flags.deadline = Some(text)),
        ("--max-run-age", "1h", |flags, text| flags.max_run_age = Some(text)),
        ("--max-removed", "20", |flags, text| flags.max_removed = Some(text)),
        ("--keep-history", "400d", |flags, text| flags.keep_history = Some(text)),
    ];
    for (name, example, set) in flags {
        for nonsense in ["", "-1", "lots", "99999999999999999999", "1 2", "\u{7}"] {
            if (name, nonsense) == ("--client-id", "-1") || (name == "--client-id" && nonsense.len() > 3) {
                continue;
            }
            let mut given = Flags::default();
            set(&mut given, nonsense.into());
            let error = read(&given, &good()).expect_err(name);
            assert!(error.contains(name) && error.contains(example), "{name} {nonsense:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error:?}");
        }
    }
}

#[test]
fn nonsense_about_output_is_answered_with_an_example() {
    let given = |set: fn(&mut Flags)| {
        let mut flags = Flags::default();
        set(&mut flags);
        Output::read(&flags, NOTHING).unwrap_err().0
    };
    for (error, name, example) in [
        (given(|flags| flags.progress = Some("AUTO".into())), "--progress", "always"),
        (given(|flags| flags.log_format = Some("xml".into())), "--log-format", "json"),
        (given(|flags| flags.metrics_file = Some("".into())), "--metrics-file", ".prom"),
        (given(|flags| flags.trace_file = Some("/tmp/".into())), "--trace-file", ".jsonl"),
    ] {
        assert!(error.contains(name) && error.contains(example), "{error}");
    }
    let no_color = |name: &str| (name == "NO_COLOR").then(|| "1".into());
    let plain = Output::read(&Flags::default(), Environment { variables: &no_color, file: None });
    assert!(plain.unwrap().no_color);
}

#[test]
fn a_query_is_refused_and_not_shown() {
    let error =
        read(&Flags::default(), &with("AD_PLATFORM_API_URL", "https://x.example/?key=hunter2")).unwrap_err();
    assert!(error.contains("no query") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_port_that_is_no_port_is_refused_and_no_other_one_asked() {
    for port in ["99999", "65616", "65536", "0", "00", "", "+80", "-1", "80x", "8 0", "80:80"] {
        for host in ["http://127.0.0.1", "http://[::1]", "https://ads.example.com"] {
            for path in ["", "/", "/base:80"] {
                let url = format!("{host}:{port}{path}");
                let mut variables = good();
                variables.insert("AD_PLATFORM_API_URL", &url);
                let error = read(&Flags::default(), &variables).expect_err(&url);
                assert!(error.contains("AD_PLATFORM_API_URL"), "{url}: {error}");
            }
        }
    }
    for url in ["http://127.0.0.1:1", "http://[::1]:65535/base:0", "https://ads.example.com:08443"] {
        assert!(read(&Flags::default(), &with("AD_PLATFORM_API_URL", url)).is_ok(), "{url}");
    }
}

#[test]
fn plain_http_is_for_this_machine_unless_allowed() {
    for url in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "http://127.9.9.9"] {
        assert!(read(&Flags::default(), &with("AD_PLATFORM_API_URL", url)).is_ok(), "{url}");
    }
    for url in [
        "http://ads.example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "ftp://x",
        "x",
        "https://",
    ] {
        let error = read(&Flags::default(), &with("AD_PLATFORM_API_URL", url)).expect_err(url);
        assert!(error.contains("AD_PLATFORM_API_URL"), "{error}");
    }
    let allowed = Flags { allow_http: true, ..Flags::default() };
    assert!(read(&allowed, &with("AD_PLATFORM_API_URL", "http://ads.example.com")).is_ok());
}

#[test]
fn what_is_missing_is_named() {
    for name in ["AD_PLATFORM_API_URL", "AD_PLATFORM_EMAIL", "AD_PLATFORM_PASSWORD"] {
        let mut variables = good();
        variables.remove(name);
        let error = read(&Flags::default(), &variables).expect_err(name);
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn an_address_has_its_scheme_in_lower_case() {
    let address = |text| {
        read(&Flags::default(), &with("AD_PLATFORM_API_URL", text)).unwrap().accounts[0].api_url.clone()
    };
    assert_eq!(address("hTTps://Ads.example.com/Base//"), "https://Ads.example.com/Base");
    assert_eq!(address("HTTP://[::1]:8080"), "http://[::1]:8080");
}

#[test]
fn an_address_and_an_email_have_a_greatest_length() {
    let host = "https://ads.example.com/";
    let (longest, too_long) =
        (format!("{host}{}", "x".repeat(2_000 - host.len())), format!("{host}{}", "x".repeat(2_000)));
    let email = |length: usize| format!("{}@x.example", "x".repeat(length - 10));
    let told = |name: &'static str, text: String| {
        let mut variables: Variables<'_> = good();
        variables.insert(name, &text);
        read(&Flags::default(), &variables)
    };
    told("AD_PLATFORM_API_URL", longest).unwrap();
    told("AD_PLATFORM_EMAIL", email(1_000)).unwrap();
    assert!(told("AD_PLATFORM_API_URL", too_long).unwrap_err().contains("at most 2000 bytes"));
    assert!(told("AD_PLATFORM_EMAIL", email(1_001)).unwrap_err().contains("at most 1000 bytes"));
}

#[test]
fn credentials_in_the_address_are_refused_and_not_shown() {
    let error =
        read(&Flags::default(), &with("AD_PLATFORM_API_URL", "https://me:hunter2@x.example")).unwrap_err();
    assert!(error.contains("no credentials") && !error.contains("hunter2"), "{error}");
}

#[test]
fn the_password_has_one_source() {
    let folder = Scratch::new("password");
    let file = folder.path().join("ad_platform_password");
    std::fs::write(&file, "from the file\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    let (file, folder) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
    let from = |name: &'static str, value: &str| {
        let mut variables: Variables<'_> = good();
        variables.remove("AD_PLATFORM_PASSWORD");
        variables.insert(name, value);
        let config = read(&Flags::default(), &variables)?;
        let password = config.accounts[0].password.get().map_err(|error| error.0)?;
        Ok::<_, String>(password.reveal().to_owned())
    };
    assert_eq!(from("AD_PLATFORM_PASSWORD_FILE", file).unwrap(), "from the file");
    assert_eq!(from("CREDENTIALS_DIRECTORY", folder).unwrap(), "from the file");
    assert_eq!(from("AD_PLATFORM_PASSWORD_COMMAND", "echo from a command").unwrap(), "from a command");
    assert!(from("AD_PLATFORM_PASSWORD_COMMAND", "echo hunter3; exit 3").unwrap_err().contains("exit 0"));
    assert!(from("AD_PLATFORM_PASSWORD_COMMAND", "true").unwrap_err().contains("empty"));
    assert!(from("AD_PLATFORM_PASSWORD_FILE", "/nowhere").unwrap_err().contains("/nowhere"));
    assert!(
        from("AD_PLATFORM_PASSWORD_COMMAND", "printf 'hunter3\\nhunter4'").unwrap_err().contains("one line")
    );
    let error = read(&Flags::default(), &with("AD_PLATFORM_PASSWORD_FILE", "/nowhere")).unwrap_err();
    assert!(error.contains("AD_PLATFORM_PASSWORD and AD_PLATFORM_PASSWORD_FILE"), "{error}");
    assert!(!error.contains("hunter2"));
}

proptest! {
    #[test]
    fn no_text_in_any_setting_makes_it_panic_or_show_the_password(text in "\\PC{0,30}", place in 0usize..6) {
        let names = ["AD_PLATFORM_API_URL", "AD_PLATFORM_EMAIL", "AD_PLATFORM_CLIENT_ID", "AD_PLATFORM_RATE_LIMIT",
            "CAMPAIGN_SYNC_WORKERS", "CAMPAIGN_SYNC_PAGE_SIZE"];
        let mut variables: Variables<'_> = good();
        variables.insert(names[place], &text);
        if let Err(error) = read(&Flags::default(), &variables) {
            prop_assert!(!error.contains("hunter2"));
            prop_assert_eq!(error.lines().count(), 1);
        }
    }
}
