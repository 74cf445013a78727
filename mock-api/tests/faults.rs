//! Each fault is what it is called, and the same seed is the same bad day.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod client;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use client::Client;
use mock_api::{Faults, Kind, Misfortune, Server, Settings};

fn with(faults: Faults) -> (Server, Client) {
    let server = mock_api::start(Settings { faults, ..Settings::fast(60) }).unwrap();
    let client = Client::new(&server);
    (server, client)
}

fn error_of(faults: Faults) -> ErrorKind {
    let (_server, mut client) = with(faults);
    client.list(1, 10).err().expect("the request must fail").kind()
}

#[test]
fn a_hang_is_never_answered() {
    let hang = (1.0, Duration::from_millis(80));
    let (_server, mut client) = with(Faults { hang, ..Faults::default() });
    let from = Instant::now();
    assert_eq!(client.list(1, 10).err().unwrap().kind(), ErrorKind::UnexpectedEof);
    assert!(from.elapsed() >= hang.1);
}

#[test]
fn resets_are_resets_and_cuts_are_cuts() {
    assert_eq!(error_of(Faults { reset: 1.0, ..Faults::default() }), ErrorKind::ConnectionReset);
    assert_eq!(error_of(Faults { cut_body: 1.0, ..Faults::default() }), ErrorKind::UnexpectedEof);
    let (server, mut client) = with(Faults { reset_in_body: 1.0, ..Faults::default() });
    assert_eq!(client.sync("campaign_1").err().unwrap().kind(), ErrorKind::ConnectionReset);
    let ledger = server.ledger();
    assert_eq!((ledger.syncs, ledger.syncs_done().len()), (1, 0), "it is done, but nobody was told");
}

#[test]
fn a_dripping_body_arrives_whole_and_slowly() {
    let drip = (1.0, Duration::from_millis(2));
    let (_server, mut client) = with(Faults { drip, ..Faults::default() });
    let from = Instant::now();
    let reply = client.list(1, 1).unwrap();
    assert_eq!(reply.json()["data"][0]["id"], "campaign_1");
    assert!(from.elapsed() >= drip.1 * u32::try_from(reply.body.len()).unwrap());
}

#[test]
fn wrong_answers_come_with_the_right_status() {
    let (_server, mut client) = with(Faults { html: 1.0, ..Faults::default() });
    let reply = client.list(1, 10).unwrap();
    assert!(reply.status == 200 && reply.body.starts_with(b"<html>"));
    assert_eq!(reply.header("Content-Type"), Some("text/html"));
    let (_server, mut client) = with(Faults { other_json: 1.0, ..Faults::default() });
    let reply = client.sync("campaign_1").unwrap();
    assert!(reply.status == 200 && reply.json().get("success").is_none());
    let (server, mut client) = with(Faults { server_error: 1.0, ..Faults::default() });
    let mut statuses: Vec<u16> = (0..60).map(|_| client.list(1, 10).unwrap().status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [500, 502, 503, 504]);
    assert!(server.served().is_empty());
}

#[test]
fn a_redirect_names_its_target_and_what_arrives_there_is_in_its_ledger() {
    let elsewhere = mock_api::start(Settings::fast(1)).unwrap();
    let redirect = Some((1.0, elsewhere.url()));
    let (_server, mut client) = with(Faults { redirect, ..Faults::default() });
    let reply = client.list(1, 10).unwrap();
    assert_eq!((reply.status, reply.header("Location")), (302, Some(elsewhere.url().as_str())));
    let mut there = Client::stranger(&elsewhere);
    there.send("GET", "/", "", "").unwrap();
    there.receive().unwrap();
    there.list(1, 10).unwrap();
    let seen: Vec<bool> = elsewhere.ledger().requests.iter().map(|seen| seen.credentials).collect();
    assert_eq!(seen, [false, true]);
}

/// Reads two megabytes of an answer that has no end, and hands out how it begins.
fn beginning(faults: Faults) -> Vec<u8> {
    let (_server, mut client) = with(faults);
    let headers = format!("Authorization: Bearer {}\r\n", client.token);
    client.send("GET", "/api/campaigns?page=1&limit=10", &headers, "").unwrap();
    let mut bytes = vec![0; 2 << 20];
    client.stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_endless_does_not_end() {
    let body = beginning(Faults { endless_body: 1.0, ..Faults::default() });
    assert!(body.ends_with(b"xxx") && body.windows(4).any(|four| four == b"\r\n\r\n"));
    let headers = beginning(Faults { endless_headers: 1.0, ..Faults::default() });
    assert!(!headers.windows(4).any(|four| four == b"\r\n\r\n"));
    let bomb = beginning(Faults { gzip_bomb: 1.0, ..Faults::default() });
    let body = bomb.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(bomb[body..body + 3], [0x1f, 0x8b, 8]);
}

#[test]
fn misfortunes_befall_the_same_campaigns_always() {
    let (server, mut client) = with(Faults {
        refused_every: 5,
        forbidden_every: 7,
        poisoned_every: 11,
        hanging_every: (13, Duration::from_millis(10)),
        ..Faults::default()
    });
    for n in 1..=60 {
        let id = format!("campaign_{n}");
        let misfortune = server.misfortune(&id);
        let Ok(reply) = client.sync(&id) else {
            assert_eq!((misfortune, n % 13), (Some(Misfortune::Hanging), 0));
            client.stream = client::connect(&server);
            continue;
        };
        let (status, success) = (reply.status, reply.json()["success"].as_bool());
        let expected = match misfortune {
            None => (200, Some(true)),
            Some(Misfortune::Refused) => (200, Some(false)),
            Some(Misfortune::NotFound) => (404, None),
            Some(Misfortune::Gone) => (410, None),
            Some(Misfortune::Forbidden) => (403, None),
            Some(Misfortune::Poisoned) => (500, None),
            Some(Misfortune::Hanging) => unreachable!("{id} was answered"),
        };
        assert_eq!((status, success), expected, "{id}");
    }
    let fortunate = server.fates().iter().filter(|(_, fate)| *fate == mock_api::Fate::Row).count();
    assert_eq!(server.ledger().syncs_done().len(), fortunate);
}

#[test]
fn tokens_are_revoked_again_and_again() {
    let (server, mut client) = with(Faults { revoke_every: 4, ..Faults::default() });
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let status = client.list(1, 10).unwrap().status;
        statuses.push(status);
        if status == 401 {
            client.renew();
        }
    }
    // The 4th, 8th and 12th requests of all; token requests are the 1st, 5th, 9th and 13th.
    assert_eq!(statuses, [200, 200, 401, 200, 200, 401, 200, 200]);
    assert_eq!(server.ledger().tokens, 3);
}

#[test]
fn outages_come_and_go() {
    let (server, mut client) = with(Faults { sync_outage: true, ..Faults::default() });
    let mut both = |server: &Server| {
        let statuses =
            [client.list(1, 10), client.sync("campaign_1")].map(|reply| reply.map_or(0, |r| r.status));
        if statuses.contains(&0) {
            client.stream = client::connect(server);
        }
        statuses
    };
    assert_eq!(both(&server), [200, 503]);
    server.set_faults(Faults { list_outage: true, ..Faults::default() });
    assert_eq!(both(&server), [503, 200]);
    server.set_faults(Faults { outage: true, ..Faults::default() });
    assert_eq!(both(&server), [503, 503]);
    server.set_faults(Faults { outage_closes: true, ..Faults::default() });
    assert_eq!(both(&server), [0, 0]);
    server.set_faults(Faults::default());
    assert_eq!(both(&server), [200, 200]);
    server.outage_for(Duration::from_secs(3600));
    assert_eq!(both(&server), [503, 503]);
    server.outage_for(Duration::ZERO);
    assert_eq!(both(&server), [200, 200]);
    assert!(server.ledger().of(Kind::List).any(|seen| seen.status == 0));
}

#[test]
fn pages_lie_as_they_are_told_to() {
    let ids = |faults: Faults, page: u64| {
        let (_server, mut client) = with(faults);
        let listing = client.list(page, 10).unwrap().json();
        let ids: Vec<u32> = listing["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|campaign| campaign["id"].as_str().unwrap()["campaign_".len()..].parse().unwrap())
            .collect();
        (ids, listing["pagination"]["limit"].as_u64().unwrap(), listing["pagination"]["has_more"] == true)
    };
    let plain = |from: u32| (from..from + 10).collect::<Vec<u32>>();
    let none = Faults::default;
    assert_eq!(ids(none(), 6), (plain(51), 10, false));
    assert_eq!(ids(none(), 9), (vec![], 10, false));
    assert_eq!(ids(Faults { endless: true, ..none() }, 9), (plain(51), 10, true));
    assert_eq!(ids(Faults { most_per_page: 3, ..none() }, 2), (vec![4, 5, 6], 3, true));
    assert_eq!(ids(Faults { empty_page: 2, ..none() }, 2), (vec![], 10, true));
    assert_eq!(ids(Faults { empty_page: 2, ..none() }, 7), (plain(51), 10, false));
    assert_eq!(ids(Faults { repeated_page: 6, ..none() }, 6), (plain(51), 10, true));
    assert_eq!(ids(Faults { repeated_page: 6, ..none() }, 7), (plain(51), 10, false));
    let doubled = ids(Faults { duplicates: true, ..none() }, 2).0;
    assert_eq!((doubled[0], doubled[1], doubled[11], doubled.len()), (10, 11, 11, 12));
}

#[test]
fn a_seed_repeats_its_day_and_another_does_not() {
    let day = |seed| {
        let faults = Faults { server_error: 0.3, html: 0.2, on_tokens: true, ..Faults::default() };
        let server = mock_api::start(Settings { faults, seed, ..Settings::fast(60) }).unwrap();
        let mut client = Client::stranger(&server);
        let tokens: Vec<u16> =
            (0..20).map(|_| client.token(mock_api::EMAIL, mock_api::PASSWORD).unwrap().status).collect();
        server.change(|settings| settings.faults.on_tokens = false);
        client.renew();
        let lists = (0..50).map(|_| client.list(1, 10).unwrap()).map(|r| (r.status, r.body.len()));
        (tokens, lists.collect::<Vec<_>>())
    };
    assert_eq!(day(7), day(7));
    assert_ne!(day(7), day(8));
    assert!(day(7).0.iter().any(|status| *status >= 500));
}

#[test]
fn stopping_breaks_what_waits_at_once() {
    let hang = (1.0, Duration::from_secs(3600));
    let (server, client) = with(Faults { hang, ..Faults::default() });
    let mut waiting: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        let mut other = Client::stranger(&server);
        other.token.clone_from(&client.token);
        let headers = format!("Authorization: Bearer {}\r\n", other.token);
        other.send("GET", "/api/campaigns", &headers, "").unwrap();
        waiting.push(other.stream);
    }
    let from = Instant::now();
    while server.ledger().total < 201 {
        assert!(from.elapsed() < Duration::from_secs(20), "the requests do not arrive");
        std::thread::yield_now();
    }
    let from = Instant::now();
    server.stop();
    assert!(from.elapsed() < Duration::from_secs(4), "it took {:?}", from.elapsed());
    for mut stream in waiting {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
}
