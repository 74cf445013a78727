//! A million tasks queued and drained, with nothing in place of the API: prints the seconds of each tenth.
//!
//! `million DATABASE_URL [TASKS]`; the database must be empty.

use std::time::{Duration, Instant, SystemTime};

use campaign_sync::platform::Campaign;
use campaign_sync::store::process::Process;
use campaign_sync::store::queue::{self, NewTask, Pages};
use campaign_sync::store::runs::Opening;
use campaign_sync::store::{Client, join, leases, schema};

const BATCH: usize = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = arguments.first().ok_or("usage: million DATABASE_URL [TASKS]")?;
    let tasks: usize = arguments.get(1).map_or(Ok(1_000_000), |tasks| tasks.parse())?;
    let client = &mut Client::from(postgres::Client::connect(url, postgres::NoTls)?);
    schema::migrate(client)??;
    let opening = Opening {
        page_size: 1_000,
        max_age: Duration::from_secs(86_400),
        fresh: true,
        lists: true,
        keeps_history: true,
    };
    let run = join::open(client, "default", &opening)?.0.run_id;
    let worker = 1;
    leases::register(client, "default", run, worker, &Process::default())?;
    leases::take_listing(client, "default", run, worker)?;

    let started = Instant::now();
    for page in 0..tasks / BATCH {
        let ids: Vec<String> = (page * BATCH..(page + 1) * BATCH).map(|n| format!("campaign_{n}")).collect();
        let new = ids.iter().zip((page * BATCH) as i64..);
        let payload = "{\"id\":\"campaign\",\"name\":\"a record of about the usual length, to make the table as large as it is in real use\"}";
        let new = new.map(|(id, seq)| NewTask { id, seq, payload, held: false }).collect();
        let from_page = page as i64 + 1;
        let pages = Pages {
            from_page,
            next_page: from_page + 1,
            page_size: 1_000,
            last: false,
            totals: None,
            moved: false,
            tasks: new,
            invalid: Vec::new(),
            finished: Vec::new(),
        };
        queue::add_pages(client, "default", run, worker, &pages)?.ok_or("the listing was taken away")?;
    }
    println!("queued {tasks} in {:.1} s", started.elapsed().as_secs_f64());

    let mut campaign = Campaign {
        id: String::new(),
        name: "a campaign".into(),
        status: "active".into(),
        budget: "1.50".into(),
        impressions: 1,
        clicks: 1,
        conversions: 1,
        created_at: SystemTime::UNIX_EPOCH,
        extra: "{}".into(),
    };
    for tenth in 1..=10 {
        let (mut claims, mut commits) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..tasks / BATCH / 10 {
            let begun = Instant::now();
            let held = queue::claim(client, "default", worker, BATCH as i64)?;
            claims += begun.elapsed();
            let finished: Vec<(i32, Campaign)> = held
                .into_iter()
                .map(|held| {
                    campaign.id = held.id;
                    (held.attempt, campaign.clone())
                })
                .collect();
            let finished: Vec<(i32, &Campaign)> =
                finished.iter().map(|(attempt, one)| (*attempt, one)).collect();
            let begun = Instant::now();
            let stored = queue::complete(client, "default", worker, &finished)?;
            commits += begun.elapsed();
            assert_eq!(stored, Some(BATCH as i64));
        }
        println!(
            "tenth {tenth:2}: claims {:.2} s, commits {:.2} s",
            claims.as_secs_f64(),
            commits.as_secs_f64()
        );
    }
    Ok(())
}
