//! Stores pages with what has come of their campaigns.

use super::command::{Committed, Pages, Part};
use super::queue::{self, NewDeadLetter, NewTask};
use super::{Store, StoreError, leases};

/// Stores pages as they are, in one transaction.
pub(super) fn add_pages(store: &Store, part: &Part, pages: &Pages) -> Result<Option<Committed>, StoreError> {
    let rows = rows(pages);
    let bytes = pages.tasks.iter().map(|task| task.payload.len()).sum::<usize>()
        + pages.finished.iter().map(|record| record.campaign.extra.len()).sum::<usize>()
        + pages.dead.iter().map(|letter| letter.payload.len()).sum::<usize>();
    let (run_id, worker) = (part.run_id, part.worker);
    let mut tries = u32::from(store.tries_again());
    store.run_sized(bytes, |client, account| {
        tries += 1;
        let add = if pages.after_another { queue::add_pages_after_another } else { queue::add_pages };
        if let Some(added) = add(client, account, run_id, worker, &rows)? {
            let queue::Added { new, left_out, taken, others } = added;
            return Ok(Some(Committed { new, left_out, taken, others, ..Committed::default() }));
        }
        // A first try may have been made of which nobody heard: its tasks are this worker's all the same.
        if tries > 1 && queue::has_reached(client, account, run_id, worker, pages.next_page)? {
            let new = i64::try_from(pages.tasks.len() + pages.finished.len()).unwrap_or(i64::MAX);
            let others = leases::others(client, account, run_id, worker)?;
            return Ok(Some(Committed { new, others, ..Committed::default() }));
        }
        Ok(None)
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
        moved: pages.moved,
        tasks: tasks
            .map(|task| NewTask { id: &task.id, seq: task.seq, payload: &task.payload, held: task.held })
            .collect(),
        finished: pages.finished.iter().map(|record| &*record.campaign).collect(),
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
    }
}
