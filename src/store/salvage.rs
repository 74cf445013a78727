//! What a database refuses because of one row: halves are written until the row is alone, and becomes a dead letter. Rows of
//! pages are written ahead of the run's next page, which comes last, with all of them once more: so neither a crash in between
//! nor a database that forgets its newest commits loses any.

use super::adding::add_pages;
use super::command::{Committed, Finished, NewCampaign, NewDeadLetter, NewTask, Pages, Part};
use super::queue::{self, Failed};
use super::{Store, StoreError, begin, leases};
use crate::foreign;
use crate::platform::{Campaign, name_of};

/// The longest that a refused campaign's id may be in a message, in characters.
const ID_CHARACTERS: usize = 100;

/// A record of a page, in the form in which it is tried to be written.
#[derive(Clone)]
enum Item {
    /// A campaign that is finished, …
    Campaign(NewCampaign),
    /// … or a task, and whether it is one that was to be a campaign, …
    Task(NewTask, bool),
    /// … or a dead letter, …
    Letter(NewDeadLetter),
    /// … or one in ASCII: what every encoding of a database can hold, …
    Ascii(NewDeadLetter, Option<NewTask>),
    /// … or, of a campaign that has failed permanently, the task that it is for the next run.
    Left(NewTask),
}

impl Item {
    fn id(&self) -> &str {
        match self {
            Self::Campaign(record) => &record.campaign.id,
            Self::Task(task, _) | Self::Left(task) => &task.id,
            Self::Letter(letter) | Self::Ascii(letter, _) => &letter.id,
        }
    }

    /// The next form to try after this error; none when there is no other, or when it is not for the record's sake.
    fn next(&self, error: &StoreError) -> Option<Self> {
        match self {
            // What a task comes to is seen to when it is finished.
            Self::Campaign(record) => Some(Self::Task(
                NewTask {
                    id: record.campaign.id.clone(),
                    seq: record.seq,
                    payload: record.payload.clone(),
                    held: true,
                },
                true,
            )),
            Self::Task(task, _) if error.is_rows_fault() => Some(Self::Letter(NewDeadLetter {
                id: task.id.clone(),
                named: true,
                cause: "unstorable",
                reason: unstorable(error),
                attempts: 0,
                payload: task.payload.clone(),
                retryable: true,
                seq: None,
            })),
            Self::Letter(letter)
                if !(letter.payload.is_ascii() && letter.reason.is_ascii() && letter.id.is_ascii()) =>
            {
                Some(Self::Ascii(in_ascii(letter), task_of(letter)))
            }
            Self::Letter(letter) => task_of(letter).map(Self::Left),
            Self::Ascii(_, task) => task.clone().map(Self::Left),
            Self::Task(..) | Self::Left(_) => None,
        }
    }
}

/// The task of a campaign that has failed permanently.
fn task_of(letter: &NewDeadLetter) -> Option<NewTask> {
    let (id, payload) = (letter.id.clone(), letter.payload.clone());
    letter.seq.map(|seq| NewTask { id, seq, payload, held: true })
}

fn in_ascii(letter: &NewDeadLetter) -> NewDeadLetter {
    let named = letter.named && letter.id.is_ascii();
    NewDeadLetter {
        id: if named { letter.id.clone() } else { name_of(&letter.payload) },
        named,
        retryable: letter.retryable && named,
        reason: foreign::ascii(&letter.reason),
        payload: foreign::ascii_json(&letter.payload).into(),
        ..letter.clone()
    }
}

/// Why nothing more is written.
enum Interrupted {
    /// This process no longer lists, or is to stop.
    NoLonger,
    By(StoreError),
}

struct Salvage<'a> {
    store: &'a Store,
    part: &'a Part,
    whole: &'a Pages,
    done: Committed,
    /// What was written, each in the form in which it could be.
    written: Vec<Item>,
}

/// Writes the records of pages, in which form they can be, and then the run's next page. Nothing when this process no longer
/// lists.
pub(super) fn pages(store: &Store, part: &Part, whole: &Pages) -> Result<Option<Committed>, StoreError> {
    let items: Vec<Item> = whole
        .finished
        .iter()
        .cloned()
        .map(Item::Campaign)
        .chain(whole.tasks.iter().cloned().map(|task| Item::Task(task, false)))
        .chain(whole.dead.iter().cloned().map(Item::Letter))
        .collect();
    let mut salvage = Salvage { store, part, whole, done: Committed::default(), written: Vec::new() };
    // What refuses no rows at all refuses the run itself.
    let placed = salvage.write(&[]).and_then(|refused| match refused {
        Some(error) => Err(Interrupted::By(error)),
        None => salvage.place(&items),
    });
    match placed {
        Ok(()) => {}
        Err(Interrupted::NoLonger) => return Ok(None),
        Err(Interrupted::By(error)) => return Err(error),
    }
    let Salvage { mut done, written, .. } = salvage;
    if done.stands {
        return Ok(Some(done));
    }
    // All of it once more with the run's next page: a database that forgets its newest commits loses both or neither.
    let mut advanced = add_pages(store, part, &rows(whole, &written, true));
    if matches!(advanced, Err(StoreError::Row { .. })) {
        // What can be written one by one only is there by now.
        advanced = add_pages(store, part, &rows(whole, &[], true));
    }
    Ok(advanced?.map(|advanced| {
        done.others = advanced.others;
        done.left_out.sort_unstable();
        done
    }))
}

/// These, in their forms; without the run's next page, unless it `advances`.
fn rows(whole: &Pages, items: &[Item], advances: bool) -> Pages {
    let mut rows = Pages {
        tasks: Vec::new(),
        finished: Vec::new(),
        dead: Vec::new(),
        ..if advances {
            whole.clone()
        } else {
            Pages {
                from_page: whole.from_page,
                next_page: whole.from_page,
                after_another: whole.after_another,
                ..Pages::default()
            }
        }
    };
    for item in items {
        match item {
            Item::Campaign(record) => rows.finished.push(record.clone()),
            Item::Task(task, _) | Item::Left(task) => rows.tasks.push(task.clone()),
            Item::Letter(letter) | Item::Ascii(letter, _) => rows.dead.push(letter.clone()),
        }
    }
    rows
}

impl Salvage<'_> {
    fn place(&mut self, items: &[Item]) -> Result<(), Interrupted> {
        let Some(error) = self.write(items)? else { return Ok(()) };
        match items {
            [] => Ok(()),
            [item] => match item.next(&error) {
                Some(item) => {
                    if let Item::Left(_) = item {
                        self.done.refused.push(refused(item.id(), &error));
                    }
                    self.place(&[item])
                }
                None => {
                    self.done.refused.push(refused(item.id(), &error));
                    self.done.stands = true;
                    self.done.left_out.push(item.id().to_owned());
                    Ok(())
                }
            },
            _ => {
                let (one, other) = items.split_at(items.len() / 2);
                self.place(one)?;
                self.place(other)
            }
        }
    }

    /// Gives the error when one of them is refused.
    fn write(&mut self, items: &[Item]) -> Result<Option<StoreError>, Interrupted> {
        if self.store.stops() {
            return Err(Interrupted::NoLonger);
        }
        match add_pages(self.store, self.part, &rows(self.whole, items, false)) {
            Ok(Some(added)) => {
                self.note(items, added);
                Ok(None)
            }
            Ok(None) => Err(Interrupted::NoLonger),
            Err(error @ StoreError::Row { .. }) => Ok(Some(error)),
            Err(error) => Err(Interrupted::By(error)),
        }
    }

    fn note(&mut self, items: &[Item], added: Committed) {
        self.done.new += added.new;
        self.done.left_out.extend(added.left_out);
        self.done.taken.extend(added.taken);
        self.written.extend_from_slice(items);
        for item in items {
            match item {
                Item::Campaign(_) | Item::Task(_, false) => {}
                Item::Task(task, true) => self.done.unstored.push(task.id.clone()),
                Item::Letter(_) | Item::Ascii(..) | Item::Left(_) => {
                    self.done.left_out.push(item.id().to_owned());
                }
            }
        }
    }
}

/// Stores what has come of tasks; a campaign that cannot be stored becomes a dead letter.
pub(super) fn finish(
    store: &Store,
    part: &Part,
    synced: &[(i32, &Campaign)],
    mut dead: Vec<Failed>,
) -> Result<Finished, StoreError> {
    let mut done = Finished::default();
    match together(store, part, synced, &dead) {
        Ok((stored, others)) => (done.stored, done.others) = (stored, others),
        Err(StoreError::Row { .. }) => {
            // Where nothing at all can be completed, it is no campaign's fault.
            together(store, part, &[], &[])?;
            complete(store, part, synced, &mut dead, &mut done)?;
            bury(store, part, &mut dead, &mut done)?;
        }
        Err(error) => return Err(error),
    }
    Ok(done)
}

fn together(
    store: &Store,
    part: &Part,
    synced: &[(i32, &Campaign)],
    dead: &[Failed],
) -> Result<(usize, bool), StoreError> {
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
        Ok((usize::try_from(stored).unwrap_or(0), others))
    })
}

/// Stores campaigns; when one of them cannot be stored, halves are tried until it is alone, and becomes a dead letter.
fn complete(
    store: &Store,
    part: &Part,
    synced: &[(i32, &Campaign)],
    dead: &mut Vec<Failed>,
    done: &mut Finished,
) -> Result<(), StoreError> {
    if synced.is_empty() {
        return Ok(());
    }
    match (together(store, part, synced, &[]), synced) {
        (Ok((stored, others)), _) => {
            done.stored += stored;
            done.others = others;
        }
        (Err(error @ StoreError::Row { .. }), [(attempt, campaign)]) if error.is_rows_fault() => {
            dead.push(Failed {
                id: campaign.id.clone(),
                attempt: *attempt,
                cause: "unstorable",
                reason: unstorable(&error),
                tries: 1,
                retryable: true,
            });
        }
        (Err(error @ StoreError::Row { .. }), [(_, campaign)]) => {
            done.refused.push(refused(&campaign.id, &error));
        }
        (Err(StoreError::Row { .. }), several) => {
            let (one, other) = several.split_at(several.len() / 2);
            complete(store, part, one, dead, done)?;
            complete(store, part, other, dead, done)?;
        }
        (Err(error), _) => return Err(error),
    }
    Ok(())
}

/// Makes dead letters of tasks; when one of them cannot be written, halves are tried until it is alone. What can be written in
/// no way stays a task.
fn bury(store: &Store, part: &Part, dead: &mut [Failed], done: &mut Finished) -> Result<(), StoreError> {
    if dead.is_empty() {
        return Ok(());
    }
    match (together(store, part, &[], dead), dead) {
        (Ok((stored, others)), _) => {
            done.stored += stored;
            done.others = others;
        }
        (Err(StoreError::Row { .. }), [one]) if !one.reason.is_ascii() => {
            one.reason = foreign::ascii(&one.reason);
            bury(store, part, std::slice::from_mut(one), done)?;
        }
        (Err(error @ StoreError::Row { .. }), [one]) => done.refused.push(refused(&one.id, &error)),
        (Err(StoreError::Row { .. }), several) => {
            let (one, other) = several.split_at_mut(several.len() / 2);
            bury(store, part, one, done)?;
            bury(store, part, other, done)?;
        }
        (Err(error), _) => return Err(error),
    }
    Ok(())
}

fn refused(id: &str, error: &StoreError) -> (String, String) {
    (foreign::one_line(id, ID_CHARACTERS), error.to_string())
}

/// A dead letter's reason after this error.
fn unstorable(error: &StoreError) -> String {
    format!("Postgres cannot store it: {error}")
}
