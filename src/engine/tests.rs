//! Tests of an account's part as a whole.

use std::time::{Duration, Instant, SystemTime};

use super::account::{Account, Settings};
use super::calls::{Action, Answer, Call, Done, Event, News, Room};
use crate::http::secret::Secret;
use crate::http::token::{Grant, Turn};
use crate::platform::CallError;
use crate::store::command::{Checkpoint, Claimed, Command, Left, Opened, Reply};
use crate::store::runs::{OpenRun, Opening, Progress};
use crate::sync::{Ending, Patience};

fn settings() -> Settings {
    let opening = Opening {
        page_size: 10,
        max_age: Duration::from_secs(86_400),
        fresh: false,
        lists: true,
        keeps_history: false,
    };
    let patience = Patience {
        max_attempts: 5,
        max_wait: Duration::from_secs(900),
        give_up_after: Duration::from_secs(300),
    };
    Settings {
        workers: 4,
        opening,
        retry: None,
        max_removed: 20,
        keep_history: None,
        shares_since: None,
        keeps_token: true,
        tells_standing: false,
        patience,
        rate_limit: None,
        api: "http://platform".into(),
        credentials: None,
        seed: 1,
    }
}

fn opened() -> Opened {
    let run = OpenRun {
        run_id: 1,
        run_key: "key".into(),
        page_size: 10,
        listing_done: false,
        lists: true,
        new: true,
    };
    let listing = Some(Checkpoint { page: 1, page_size: 10 });
    Opened {
        run,
        listing,
        others: false,
        free_tasks: false,
        limit: None,
        gate: None,
        requeued: 0,
        abandoned: None,
    }
}

/// Lets the account do what it can after an event; gives what it wants done.
fn after(account: &mut Account, event: Event, now: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    account.on(event, now, &mut actions);
    account.advance(now, &mut Room { workers: 4, records: 1_000 }, &mut actions);
    actions
}

fn token(text: &str, now: Instant) -> Event {
    let grant = Grant { access_token: Secret::new(text.into()), lifetime: None };
    Event::Called(Done::Token(Answer::new(now, now, Some(200), Default::default()), Ok(grant)))
}

#[test]
fn the_next_token_is_not_fetched_before_the_last_one_is_kept() {
    let now = Instant::now();
    let mut account = Account::new(settings(), now);
    let asks = |actions: &[Action]| {
        let asks = |action: &Action| {
            matches!(action, Action::Store(Command::TokenTurn(_)) | Action::Call(Call::Token(_)))
        };
        actions.iter().any(asks)
    };
    account.advance(now, &mut Room { workers: 4, records: 1_000 }, &mut Vec::new());
    assert!(asks(&after(&mut account, Event::Stored(Reply::Opened(Ok(opened()))), now)));
    let turn = Event::Stored(Reply::TokenTurn(Ok((Turn::Fetch, 0))));
    assert!(asks(&after(&mut account, turn, now)));
    let actions = after(&mut account, token("first", now), now);
    let fetches = |action: &Action| matches!(action, Action::Call(Call::Pages { .. }));
    assert!(actions.iter().any(fetches), "the token is used meanwhile");
    let refused = Event::Called(Done::Page {
        permit: None,
        generation: 1,
        page: 1,
        answer: Answer::new(now, now, Some(401), Default::default()),
        result: Err(CallError::Unauthorized),
    });
    assert!(!asks(&after(&mut account, refused, now)));
    assert!(!asks(&after(
        &mut account,
        Event::Called(Done::PagesOver { permit: None, unsent: 0 }),
        now + Duration::from_secs(5)
    )));
    // Another process had fetched one meanwhile: the first one is the seventh.
    let kept = Event::Stored(Reply::Kept(Ok(7)));
    assert!(asks(&after(&mut account, kept, now + Duration::from_secs(6))));
}

#[test]
fn a_part_whose_run_was_abandoned_says_so_even_if_it_had_nothing_left_to_do() {
    let now = Instant::now();
    let mut account = Account::new(settings(), now);
    account.advance(now, &mut Room { workers: 4, records: 1_000 }, &mut Vec::new());
    after(&mut account, Event::Stored(Reply::Opened(Ok(opened()))), now);
    let run = Some(Progress {
        run_id: 1,
        state: "abandoned".into(),
        lists: true,
        listing_done: true,
        next_page: 2,
        page_size: 10,
        total: Some(1),
        listed: 1,
        synced: 1,
        failed: 0,
        removed: 0,
        not_removed: 0,
        not_removed_reason: None,
        requests: 2,
        limited: 1,
        retries: 0,
        rate_limited: 0,
        token_refreshes: 1,
        elapsed_s: 1.0,
        last_error: None,
        binary_version: String::new(),
        started_at: SystemTime::now(),
        finished_at: None,
    });
    after(&mut account, Event::Stored(Reply::Left(Ok(Left { run, ..Left::default() }))), now);
    assert!(account.is_over() && matches!(account.ending(), Some(Ending::Abandoned)), "{account:?}");
}

#[test]
fn tasks_are_not_sent_while_others_may_have_taken_them() {
    let now = Instant::now();
    let mut account = Account::new(settings(), now);
    let second = Duration::from_secs(1);
    account.advance(now, &mut Room { workers: 4, records: 1_000 }, &mut Vec::new());
    let resumed = Opened { listing: None, others: true, free_tasks: true, ..opened() };
    after(&mut account, Event::Stored(Reply::Opened(Ok(resumed))), now);
    after(&mut account, Event::Stored(Reply::TokenTurn(Ok((Turn::Fetch, 0)))), now);
    after(&mut account, token("first", now), now);
    let syncs =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Call(Call::Sync { .. })));
    let payload = r#"{"id":"c1","name":"one","status":"active","budget":1,"impressions":1,"clicks":1,"conversions":1,"created_at":"2026-01-04T03:09:09.000Z"}"#;
    let claimed = Claimed { id: "c1".into(), attempt: 1, payload: payload.into() };
    let late = now + 11 * second;
    assert!(!syncs(&after(&mut account, Event::Stored(Reply::Claimed(Ok(vec![claimed]))), late)));
    let (others, listing_done, lists, freed, over) = (true, false, true, false, None);
    let news = News { asked_at: late, others, listing_done, lists, freed, over };
    assert!(syncs(&after(&mut account, Event::News(news), late + second)));
}
