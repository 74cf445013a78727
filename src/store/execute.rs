//! Carries out the engine's commands on Postgres: each is one transaction, tried again while the database is away.

use std::time::Duration;

use super::closing::Closing;
use super::command::{
    Checkpoint, Claimed, Command, Committed, Elsewhere, Holding, Left, Opened, Pages, Part, Reply, Sharing,
};
use super::dead_letters::Retry;
use super::queue::Failed;
use super::runs::Opening;
use super::tokens::{self, Sealing};
use super::{
    Client, Store, StoreError, UNIQUE_VIOLATION, adding, begin, closing, history, join, leases, overview,
    queue, quota, runs, salvage,
};
use crate::platform::Campaign;
use crate::rate::ledger::Order;

/// How often the opening of a run may meet another process's.
const MAX_COLLISIONS: u32 = 10;
/// How many batches of old changes a run deletes at most.
pub(crate) const PRUNED_BATCHES: u32 = 100;

/// Does what the command says, for `part`; the store is that of its account, and `sealing` seals the account's tokens.
#[must_use]
pub fn execute(store: &Store, sealing: &Sealing, part: &Part, command: &Command) -> Reply {
    let (run_id, worker) = (part.run_id, part.worker);
    match command {
        Command::Open { opening, retry, sharing } => {
            let open = || open(store, part, opening, retry.as_ref(), *sharing);
            // Where another process opens the run at the same moment, it is there to be joined the next time.
            let collided = |opened: &Result<_, StoreError>| matches!(opened, Err(StoreError::Row { sqlstate, .. }) if sqlstate == UNIQUE_VIOLATION);
            let mut opened = open();
            for _ in 1..MAX_COLLISIONS {
                if !collided(&opened) {
                    break;
                }
                opened = open();
            }
            match opened {
                Ok(Ok(opened)) => Reply::Opened(Ok(opened)),
                Ok(Err(Elsewhere::Done(mut left))) => {
                    left.standing = store.run(overview::standing).ok();
                    Reply::Elsewhere(Elsewhere::Done(left))
                }
                Ok(Err(elsewhere)) => Reply::Elsewhere(elsewhere),
                Err(error) => Reply::Opened(Err(error)),
            }
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
            Reply::Finished(salvage::finish(store, part, &synced, dead.collect()))
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
        Command::Reserve(ask) => {
            Reply::Reserved(store.run(|client, account| quota::reserve(client, account, ask)))
        }
        Command::Tell(Order::TellSends) => Reply::Sends(store.run(quota::ages)),
        Command::Tell(Order::CloseGate(wait)) => {
            Reply::Told(store.run(|client, account| quota::close_gate(client, account, *wait, None)))
        }
        Command::Tell(Order::Doubt(wait, asked)) => Reply::Told(
            store.run(|client, account| quota::close_gate(client, account, *wait, Some(asked.as_secs_f64()))),
        ),
        Command::Tell(Order::OpenGate) => Reply::Told(store.run(quota::open_gate)),
        Command::Tell(Order::Learn(limit, ages)) => {
            Reply::Told(store.run(|client, account| quota::learn(client, account, *limit, ages)))
        }
        Command::TokenTurn(outdated) => Reply::TokenTurn(tokens::turn(store, sealing, *outdated, worker)),
        Command::KeepToken(grant) => Reply::Kept(tokens::keep(store, sealing, grant)),
        Command::Close { max_removed, keep_history } => {
            let closed = store.run(|client, account| closing::close(client, account, run_id, *max_removed));
            if let (Ok(Closing::Closed(_)), Some(kept)) = (&closed, keep_history) {
                prune_history(store, *kept);
            }
            Reply::Closed(closed)
        }
        Command::Abandon { reason } => Reply::Abandoned(
            store.run(|client, account| runs::abandon(client, account, run_id, reason)).map(drop),
        ),
        Command::Leave { reason, tells_standing } => {
            Reply::Left(leave(store, part, reason.as_deref()).map(|left| Left {
                standing: tells_standing.then(|| store.run(overview::standing).ok()).flatten(),
                ..left
            }))
        }
    }
}

/// Joins the run, takes its listing if that is to be had, and looks around, all at one moment; unless the account is another
/// process's to work on, or was.
fn open(
    store: &Store,
    part: &Part,
    opening: &Opening,
    retry: Option<&Retry>,
    sharing: Sharing,
) -> Result<Result<Opened, Elsewhere>, StoreError> {
    // What a try has done of whose end nobody heard, the next one does not see.
    let (mut abandoned, mut requeued, mut ended) = (None, 0, Vec::new());
    let opened = store.run(|client, account| {
        let mut transaction = begin(client)?;
        let others = join::end_the_dead(&mut transaction, account, part.worker)?;
        if !others.ended.is_empty() {
            ended = others.ended;
        }
        if sharing.yields && others.at_work && !others.known {
            transaction.commit()?;
            return Ok(Err(Elsewhere::AtWork));
        }
        let joined = join::within(&mut transaction, account, opening, retry, part.worker, others.known)?;
        if let Some(since) = sharing.done_since.filter(|_| joined.run.new)
            && let Some(run) = runs::finished_within(&mut transaction, account, store.time_since(since))?
        {
            // Whoever held the run's row until now has closed it. What was done here is undone.
            ended.clear();
            return Ok(Err(Elsewhere::Done(Box::new(Left { run: Some(run), ..Left::default() }))));
        }
        requeued = requeued.max(joined.requeued);
        abandoned = abandoned.take().or(joined.abandoned);
        if abandoned.is_some() || requeued > 0 || !ended.is_empty() {
            store.stay();
        }
        let run_id = joined.run.run_id;
        let listing = match joined.run.listing_done {
            true => None,
            false => leases::take_listing(&mut transaction, account, run_id, part.worker)?,
        };
        let (others, free_tasks) = queue::around(&mut transaction, account, run_id, part.worker)?;
        let (limit, gate) = quota::known(&mut transaction, account)?;
        transaction.commit()?;
        Ok(Ok(Opened {
            listing: listing.map(|(page, page_size)| Checkpoint { page, page_size }),
            others,
            free_tasks,
            limit,
            gate,
            requeued,
            abandoned: abandoned.clone(),
            run: joined.run,
        }))
    })?;
    let run = opened.as_ref().ok().map(|opened| opened.run.run_id);
    for ended in ended {
        log::info!(account = &*part.account, run = run; "{ended}");
    }
    Ok(opened)
}

/// Stores pages; what a database refuses of them is stored in another form.
fn commit_pages(store: &Store, part: &Part, pages: &Pages) -> Result<Option<Committed>, StoreError> {
    match adding::add_pages(store, part, pages) {
        Err(StoreError::Row { .. }) => salvage::pages(store, part, pages),
        added => added,
    }
}

/// Deletes changes that are older than they are to be kept. What is too much for once is left to the next run.
fn prune_history(store: &Store, kept: Duration) {
    for _ in 0..PRUNED_BATCHES {
        match store.run(|client, account| history::prune(client, account, kept)) {
            Ok(deleted) if deleted >= u64::from(history::BATCH) => {}
            Ok(_) => return,
            Err(error) => {
                let scope = store.scope();
                log::warn!(account = scope.account(), run = scope.run(); "changes older than --keep-history are left to the next run: {error}");
                return;
            }
        }
    }
}

/// Ends the lease: what is still held is free for others at once, and the counts go to the run.
fn leave(store: &Store, part: &Part, reason: Option<&str>) -> Result<Left, StoreError> {
    let (run_id, worker) = (part.run_id, part.worker);
    let look = |client: &mut Client, account: &str| {
        let run = runs::progress(client, account, run_id)?;
        Ok(Left { run, pending: queue::count(client, account, run_id)?, standing: None })
    };
    let left = store.run(|client: &mut Client, account| {
        let mut transaction = begin(client)?;
        leases::end(&mut transaction, account, worker)?;
        tokens::release(&mut transaction, account, worker)?;
        if let Some(reason) = reason {
            runs::stop(&mut transaction, account, run_id, reason)?;
        }
        let left = look(&mut transaction, account)?;
        transaction.commit()?;
        Ok(left)
    });
    match left {
        Err(error) if !matches!(error, StoreError::Unavailable { .. }) => {
            let scope = store.scope();
            log::debug!(account = scope.account(), run = scope.run(); "left without a word; the lease ends by itself: {error}");
            // Its tasks at least are free, if the database lets that be written.
            let _best_effort = store.run(|client, account| queue::release(client, account, worker));
            let _best_effort = store.run(|client, account| leases::reap(client, account, worker));
            store.run(look)
        }
        left => left,
    }
}
