//! Carries out the engine's commands on Postgres: each is one transaction, tried again while the database is away.

use super::command::{
    Checkpoint, Claimed, Command, Committed, Finished, Holding, Opened, Pages, Part, Reply,
};
use super::dead_letters::Retry;
use super::queue::{Failed, NewDeadLetter, NewTask};
use super::runs::Opening;
use super::tokens::{self, Sealing};
use super::{Client, Store, StoreError, UNIQUE_VIOLATION, begin, closing, join, leases, queue, quota, runs};
use crate::platform::Campaign;
use crate::rate::limiter::{Ask, Grant, Order};

/// How often the opening of a run may meet another process's.
const MAX_COLLISIONS: u32 = 5;

/// Does what the command says, for `part`; the store is that of its account, and `sealing` seals the account's tokens.
#[must_use]
pub fn execute(store: &Store, sealing: &Sealing, part: &Part, command: &Command) -> Reply {
    let (run_id, worker) = (part.run_id, part.worker);
    match command {
        Command::Open { opening, retry } => {
            let open = || open(store, part, opening, retry.as_ref());
            // Where another process opens the run at the same moment, it is there to be joined the next time.
            let collided = |opened: &Result<Opened, StoreError>| matches!(opened, Err(StoreError::Row { sqlstate, .. }) if sqlstate == UNIQUE_VIOLATION);
            let mut opened = open();
            for _ in 1..MAX_COLLISIONS {
                if !collided(&opened) {
                    break;
                }
                opened = open();
            }
            Reply::Opened(opened)
        }
        Command::TakeListing => Reply::Listing(store.run(|client, account| {
            let place = leases::take_listing(client, account, run_id, worker)?;
            Ok(place.map(|(page, page_size)| Checkpoint { page, page_size }))
        })),
        Command::CommitPages(pages) => Reply::Committed(commit_pages(store, part, pages)),
        Command::Finish { synced, dead } => {
            let synced: Vec<(i32, &Campaign)> =
                synced.iter().map(|(campaign, attempt)| (*attempt, &**campaign)).collect();
            let dead = dead.iter().map(|task| Failed {
                id: task.id.clone(),
                attempt: task.attempt,
                cause: task.cause,
                reason: task.reason.clone(),
                tries: task.tries,
                retryable: true,
            });
            Reply::Finished(finish(store, part, &synced, &dead.collect::<Vec<_>>()))
        }
        Command::Claim(most) => Reply::Claimed(store.run(|client, account| {
            let most = i64::try_from(*most).unwrap_or(i64::MAX);
            let held = queue::claim(client, account, worker, most)?;
            let claimed = held.into_iter().map(|task| Claimed {
                id: task.id,
                attempt: task.attempt,
                payload: task.payload,
            });
            Ok(claimed.collect())
        })),
        Command::Held => Reply::Held(store.run(|client, account| {
            let (held, left) = queue::holding(client, account, run_id, worker)?;
            Ok(Holding { held, left: usize::try_from(left).unwrap_or(0) })
        })),
        Command::Release(tasks) => {
            Reply::Released(store.run(|client, account| queue::release_some(client, account, worker, tasks)))
        }
        Command::Reserve(ask) => Reply::Reserved(reserve(store, ask)),
        Command::Tell(Order::TellSends) => Reply::Sends(store.run(quota::ages)),
        Command::Tell(Order::CloseGate(wait)) => {
            Reply::Told(store.run(|client, account| quota::close_gate(client, account, *wait, None)))
        }
        Command::Tell(Order::Learn(limit, ages)) => {
            Reply::Told(store.run(|client, account| quota::learn(client, account, *limit, ages)))
        }
        Command::TokenTurn(outdated) => Reply::TokenTurn(tokens::turn(store, sealing, *outdated, worker)),
        Command::KeepToken(grant) => Reply::Told(tokens::keep(store, sealing, grant)),
        Command::Close { max_removed } => Reply::Closed(
            store
                .run(|client, account| closing::close(client, account, run_id, *max_removed, (false, false))),
        ),
        Command::Leave { reason } => Reply::Left(leave(store, part, reason.as_deref())),
    }
}

/// Joins the run, takes its listing if that is to be had, and looks around, all at one moment.
fn open(store: &Store, part: &Part, opening: &Opening, retry: Option<&Retry>) -> Result<Opened, StoreError> {
    store.run(|client, account| {
        let mut transaction = begin(client)?;
        let joined = join::within(&mut transaction, account, opening, retry, part.worker)?;
        let run_id = joined.run.run_id;
        let listing = match joined.run.listing_done {
            true => None,
            false => leases::take_listing(&mut transaction, account, run_id, part.worker)?,
        };
        let others = leases::others(&mut transaction, account, run_id, part.worker)?;
        let free_tasks = queue::any_free(&mut transaction, account, run_id)?;
        let (limit, gate) = quota::known(&mut transaction, account)?;
        transaction.commit()?;
        Ok(Opened {
            listing: listing.map(|(page, page_size)| Checkpoint { page, page_size }),
            others,
            free_tasks,
            limit,
            gate,
            requeued: joined.requeued,
            run: joined.run,
        })
    })
}

fn commit_pages(store: &Store, part: &Part, pages: &Pages) -> Result<Option<Committed>, StoreError> {
    let rows = rows(pages);
    let bytes = pages.tasks.iter().map(|task| task.payload.len()).sum::<usize>()
        + pages.finished.iter().map(|campaign| campaign.extra.len()).sum::<usize>()
        + pages.dead.iter().map(|letter| letter.payload.len()).sum::<usize>();
    let (run_id, worker) = (part.run_id, part.worker);
    let mut tries = 0;
    store.run_sized(bytes, |client, account| {
        tries += 1;
        let add = if pages.after_another { queue::add_pages_after_another } else { queue::add_pages };
        let added = match add(client, account, run_id, worker, &rows)? {
            Some(added) => Some((added.new, added.left_out, added.taken)),
            // A first try may have been made of which nobody heard: its tasks are this worker's all the same.
            None if tries > 1 && queue::has_reached(client, account, run_id, worker, pages.next_page)? => {
                let new = i64::try_from(pages.tasks.len() + pages.finished.len()).unwrap_or(i64::MAX);
                Some((new, Vec::new(), Vec::new()))
            }
            None => None,
        };
        let Some((new, left_out, taken)) = added else { return Ok(None) };
        let others = leases::others(client, account, run_id, worker)?;
        Ok(Some(Committed { new, left_out, taken, others }))
    })
}

fn rows(pages: &Pages) -> queue::Pages<'_> {
    let tasks = pages.tasks.iter();
    let dead = pages.dead.iter();
    queue::Pages {
        from_page: pages.from_page,
        next_page: pages.next_page,
        page_size: pages.page_size,
        last: pages.last,
        totals: pages.totals,
        moved: false,
        tasks: tasks
            .map(|task| NewTask { id: &task.id, seq: task.seq, payload: &task.payload, held: task.held })
            .collect(),
        finished: pages.finished.iter().map(|campaign| &**campaign).collect(),
        invalid: dead
            .map(|letter| NewDeadLetter {
                key: letter.id.clone(),
                named: letter.named,
                cause: letter.cause,
                reason: &letter.reason,
                attempts: letter.attempts,
                payload: &letter.payload,
                retryable: letter.retryable,
            })
            .collect(),
        first: false,
    }
}

fn finish(
    store: &Store,
    part: &Part,
    synced: &[(i32, &Campaign)],
    dead: &[Failed],
) -> Result<Finished, StoreError> {
    let (run_id, worker) = (part.run_id, part.worker);
    let bytes = synced.iter().map(|(_, campaign)| campaign.extra.len()).sum();
    store.run_sized(bytes, |client, account| {
        let stored = match (synced, dead) {
            (synced, []) => queue::complete(client, account, worker, synced)?.unwrap_or(0),
            ([], dead) => queue::bury(client, account, worker, dead)?.unwrap_or(0),
            (synced, dead) => {
                let mut transaction = begin(client)?;
                let stored = queue::complete(&mut transaction, account, worker, synced)?.unwrap_or(0)
                    + queue::bury(&mut transaction, account, worker, dead)?.unwrap_or(0);
                transaction.commit()?;
                stored
            }
        };
        let others = leases::others(client, account, run_id, worker)?;
        Ok(Finished { stored: usize::try_from(stored).unwrap_or(0), others })
    })
}

fn reserve(store: &Store, ask: &Ask) -> Result<Grant, StoreError> {
    let asking = quota::Asking {
        limit: Some(ask.limit),
        margin: ask.margin,
        want: ask.want,
        apart: std::time::Duration::ZERO,
        newest: None,
    };
    let (reserved, _) = store.run(|client, account| quota::reserve(client, account, &asking))?;
    let limit = reserved.limit.filter(|limit| *limit != ask.limit);
    Ok(Grant { granted: reserved.granted, wait: reserved.wait, limit })
}

/// Ends the lease: what is still held is free for others at once, and the counts go to the run.
fn leave(
    store: &Store,
    part: &Part,
    reason: Option<&str>,
) -> Result<(Option<runs::Progress>, i64), StoreError> {
    let (run_id, worker) = (part.run_id, part.worker);
    store.run(|client: &mut Client, account| {
        let mut transaction = begin(client)?;
        leases::end(&mut transaction, account, worker)?;
        tokens::release(&mut transaction, account, worker)?;
        if let Some(reason) = reason {
            runs::stop(&mut transaction, account, run_id, reason)?;
        }
        let left = (
            runs::progress(&mut transaction, account, run_id)?,
            queue::count(&mut transaction, account, run_id)?,
        );
        transaction.commit()?;
        Ok(left)
    })
}
