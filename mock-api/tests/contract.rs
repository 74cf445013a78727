//! The server keeps the contract when nothing is wrong.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod client;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use client::Client;
use mock_api::{ExpiresIn, Hint, Kind, Settings};

#[test]
fn the_whole_job_of_the_faithful_profile_is_one_token_and_112_requests() {
    let settings = Settings { rate_limit: None, sync_latency: Duration::ZERO, ..Settings::faithful(1.0) };
    let server = mock_api::start(settings).unwrap();
    let mut client = Client::new(&server);
    let (mut page, mut synced) = (1, 0);
    loop {
        let reply = client.list(page, 10).unwrap();
        if reply.status == 503 {
            continue;
        }
        let listing = reply.json();
        assert_eq!(listing["pagination"]["page"], page);
        assert_eq!(listing["pagination"]["limit"], 10);
        assert_eq!(listing["pagination"]["total"], 100);
        for campaign in listing["data"].as_array().unwrap() {
            let id = campaign["id"].as_str().unwrap();
            let reply = client.sync(id).unwrap().json();
            assert_eq!((reply["success"].as_bool(), reply["campaign_id"].as_str()), (Some(true), Some(id)));
            assert_eq!(server.served()[id], campaign.to_string_in_order());
            synced += 1;
        }
        if listing["pagination"]["has_more"] == false {
            break;
        }
        page += 1;
    }
    let ledger = server.ledger();
    let statuses: Vec<u16> = ledger.of(Kind::List).map(|seen| seen.status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 503, 200, 200, 200, 200, 503, 200, 200]);
    assert_eq!((page, synced, ledger.tokens, ledger.total), (10, 100, 1, 113));
    assert!(ledger.syncs_done().len() == 100 && ledger.sync_times().len() == 100);
}

/// A record as the server writes it, from what was parsed of it.
trait InOrder {
    fn to_string_in_order(&self) -> String;
}

impl InOrder for serde_json::Value {
    fn to_string_in_order(&self) -> String {
        let fields = ["id", "name", "status", "budget", "impressions", "clicks", "conversions", "created_at"];
        let written: Vec<String> = fields.iter().map(|name| format!("\"{name}\":{}", self[*name])).collect();
        format!("{{{}}}", written.join(","))
    }
}

#[test]
fn ten_requests_pass_in_any_window_however_they_arrive() {
    let settings = Settings { list_503_every: 0, sync_latency: Duration::ZERO, ..Settings::faithful(200.0) };
    let window = settings.rate_limit.unwrap().1;
    let server = mock_api::start(settings).unwrap();
    let barrier = Barrier::new(8);
    let until = Instant::now() + window * 4;
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (server, barrier) = (&server, &barrier);
            scope.spawn(move || {
                let mut client = Client::new(server);
                client.id = if n < 4 { "one" } else { "two" };
                barrier.wait();
                while Instant::now() < until {
                    let reply = client.list(1, 10).unwrap();
                    if reply.status == 429 {
                        assert_eq!(reply.json()["retry_after"], 0.3);
                        assert!(reply.header("Retry-After").is_none());
                    }
                }
            });
        }
    });
    let ledger = server.ledger();
    assert_eq!(ledger.most_in_window, 10);
    assert!(ledger.most_within(window * 2) <= 20);
    assert!(ledger.refused > 0);
    for client in ["one", "two"] {
        let passed = ledger.requests.iter().filter(|seen| seen.client == client && seen.counted).count();
        assert!((30..=60).contains(&passed), "{client}: {passed}; a refusal must not count");
    }
}

#[test]
fn only_the_right_credentials_and_live_tokens_are_let_in() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let mut client = Client::stranger(&server);
    assert_eq!(client.token("nobody", "nothing").unwrap().status, 401);
    assert_eq!(client.list(1, 10).unwrap().status, 401);
    let first = client.renew().json();
    assert_eq!((first["token_type"].as_str(), first["expires_in"].as_u64()), (Some("Bearer"), Some(3600)));
    assert_eq!(client.list(1, 10).unwrap().status, 200);
    server.revoke_tokens();
    assert_eq!(client.list(1, 10).unwrap().status, 401);
    client.renew();
    assert_eq!(client.sync("campaign_1").unwrap().status, 200);
    let tokens: Vec<u64> = server.ledger().requests.iter().map(|seen| seen.token).collect();
    assert_eq!(tokens, [0, 0, 0, 1, 1, 0, 2]);
}

#[test]
fn a_token_dies_when_its_time_is_over_whatever_the_answer_said() {
    for (expires_in, said) in [
        (ExpiresIn::Honest, Some(0.05)),
        (ExpiresIn::Absent, None),
        (ExpiresIn::Fixed(0.0), Some(0.0)),
        (ExpiresIn::Fixed(3600.0), Some(3600.0)),
    ] {
        let token_lifetime = Duration::from_millis(50);
        let server = mock_api::start(Settings { token_lifetime, expires_in, ..Settings::fast(5) }).unwrap();
        let mut client = Client::stranger(&server);
        // Before it is there: on a busy machine its way here takes its time.
        let from = Instant::now();
        assert_eq!(client.renew().json()["expires_in"].as_f64(), said);
        while client.list(1, 10).unwrap().status == 200 {
            assert!(from.elapsed() < Duration::from_secs(10), "the token never dies");
        }
        assert!(from.elapsed() >= token_lifetime, "it died too early");
    }
}

#[test]
fn every_form_of_hint_tells_of_the_limit() {
    let hinted = |hint| {
        let rate_limit = Some((2, Duration::from_secs(60)));
        let server = mock_api::start(Settings { hint, rate_limit, ..Settings::fast(5) }).unwrap();
        let mut client = Client::new(&server);
        let passed = client.list(1, 10).unwrap();
        client.list(1, 10).unwrap();
        let refused = client.list(1, 10).unwrap();
        assert_eq!((passed.status, refused.status), (200, 429));
        (passed, refused)
    };
    let number = |reply: &client::Reply, name: &str| reply.header(name).unwrap().parse::<u64>().unwrap();
    assert_eq!(hinted(Hint::Body).1.json()["retry_after"], 60);
    assert!((58..=60).contains(&number(&hinted(Hint::Seconds).1, "Retry-After")));
    let (_, date) = hinted(Hint::Date);
    let printed = ["Retry-After", "Date"].map(|name| {
        let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date.header(name).unwrap());
        parsed.unwrap().as_second()
    });
    assert!((58..=61).contains(&(printed[0] - printed[1])));
    let (passed, refused) = hinted(Hint::RateLimit);
    assert_eq!(passed.header("RateLimit-Policy"), Some("\"default\";q=2;w=60"));
    assert_eq!(passed.header("RateLimit"), Some("\"default\";r=1;t=60"));
    assert!(refused.header("RateLimit").unwrap().starts_with("\"default\";r=0;t="));
    let (passed, refused) = hinted(Hint::XDelta);
    assert_eq!((number(&passed, "X-RateLimit-Limit"), number(&passed, "X-RateLimit-Remaining")), (2, 1));
    assert!((58..=60).contains(&number(&refused, "X-RateLimit-Reset")));
    assert!(number(&hinted(Hint::XEpoch).1, "X-RateLimit-Reset") > 1_700_000_000);
    let (_, silent) = hinted(Hint::None);
    assert!(!silent.head.to_lowercase().contains("retry") && silent.json().get("retry_after").is_none());
}

#[test]
fn odd_ids_are_one_path_segment_and_must_match_the_body() {
    let server = mock_api::start(Settings { odd: true, ..Settings::fast(1) }).unwrap();
    let mut client = Client::new(&server);
    for (id, fate) in server.fates() {
        if fate == mock_api::Fate::Row {
            assert_eq!(client.sync(&id).unwrap().json()["campaign_id"], id.as_str());
        }
    }
    let body = r#"{"campaign_id":"campaign_2"}"#;
    assert_eq!(client.ask("POST", "/api/campaigns/campaign_1/sync", body).unwrap().status, 400);
    assert_eq!(client.ask("POST", "/api/campaigns/campaign_2/sync", body).unwrap().status, 404);
    assert_eq!(
        client.ask("POST", "/api/campaigns/a/b/sync", r#"{"campaign_id":"a/b"}"#).unwrap().status,
        404
    );
}

#[test]
fn health_errors_and_the_ledger_need_no_token() {
    let server = mock_api::start(Settings::fast(5)).unwrap();
    let mut client = Client::stranger(&server);
    assert_eq!(client.ask("GET", "/health", "").unwrap().json()["status"], "ok");
    let error = client.ask("GET", "/api/error", "").unwrap();
    assert!(error.status == 500 && error.json()["stack"].is_string());
    assert_eq!(client.ask("GET", "/nowhere", "").unwrap().status, 404);
    let summary = client.ask("GET", "/ledger", "").unwrap().json();
    assert_eq!((summary["total"].as_u64(), summary["requests"].as_array().unwrap().len()), (Some(3), 0));
    let full = client.ask("GET", "/ledger?full=1", "").unwrap().json();
    assert_eq!(full["requests"].as_array().unwrap().len(), 3);
}

#[test]
fn a_million_campaigns_are_listed_in_pages_of_a_thousand() {
    let settings = Settings { full_ledger: false, ..Settings::fast(1_000_000) };
    let server = mock_api::start(settings).unwrap();
    let mut client = Client::new(&server);
    let page = client.list(1000, 1000).unwrap().json();
    assert_eq!(page["data"][999]["id"], "campaign_1000000");
    assert_eq!(
        (page["pagination"]["total"].as_u64(), page["pagination"]["has_more"].as_bool()),
        (Some(1_000_000), Some(false))
    );
    assert!(server.ledger().requests.is_empty() && server.served().is_empty());
}
