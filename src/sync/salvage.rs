//! Pages that the database refuses because of a record: halves are written until the record is alone, and becomes a dead
//! letter. The rows are written ahead of their pages: the run's next page comes last, so a crash in between loses nothing; and
//! with all of them once more, so a database that forgets its newest commits loses nothing either.

use std::borrow::Cow;
use std::collections::HashSet;

use super::ending::Ending;
use super::pages::{PendingPages, Record, Stored, dead_letter, key_of, name_of};
use super::session::Session;
use crate::foreign;
use crate::platform::Invalid;
use crate::store::StoreError;
use crate::store::queue::{Added, NewDeadLetter, NewTask, Pages};

/// What came of refused pages.
#[derive(Default)]
pub(super) struct Salvaged {
    pub added: Added,
    pub stored: Stored,
    /// Why a record could be written in no form at all: then the run stands at these pages.
    pub refused: Option<(String, StoreError)>,
}

/// The form in which a record is tried to be written; each is followed by the next one.
#[derive(Clone, Debug)]
enum Form {
    /// A campaign that is finished.
    Campaign,
    Task,
    /// A dead letter, with its cause, reason and whether it can be retried.
    Letter(&'static str, String, bool),
    /// The same in ASCII: what every encoding of a database can hold.
    Ascii(&'static str, String, bool),
}

#[derive(Clone, Copy)]
enum Listed<'a> {
    Valid(&'a Record),
    Invalid(&'a Invalid, &'a str),
}

#[derive(Clone)]
struct Item<'a> {
    listed: Listed<'a>,
    held: bool,
    form: Form,
}

struct Salvage<'a> {
    session: &'a Session,
    from_page: i64,
    /// Commits rows; none when this process no longer lists.
    add: &'a dyn Fn(&Pages<'_>) -> Result<Option<Added>, StoreError>,
    done: Salvaged,
    /// What was written, each in the form in which it could be.
    written: Vec<Item<'a>>,
}

/// The run is no longer this process's to list, or is to stop, or the database says so.
struct Interrupted(Result<(), StoreError>);

/// Writes the records of pages, in which form they can be, and then the run's next page. Nothing when this process no longer
/// lists.
pub(super) fn salvage(
    session: &Session,
    pages: &[PendingPages],
    add: &dyn Fn(&Pages<'_>) -> Result<Option<Added>, StoreError>,
) -> Result<Option<Salvaged>, StoreError> {
    let (Some(first), Some(whole)) = (pages.first(), PendingPages::rows(pages, false)) else {
        return Ok(None);
    };
    let from_page = first.pages.from_page;
    let mut salvage = Salvage { session, from_page, add, done: Salvaged::default(), written: Vec::new() };
    let items = items(pages);
    // What refuses no rows at all refuses the run itself.
    let placed = salvage.write(&[]).and_then(|_| salvage.place(&items));
    let mut done = salvage.done;
    if let Err(Interrupted(why)) = placed {
        return why.map(|()| None);
    }
    if done.refused.is_some() {
        return Ok(Some(done));
    }
    // All of it once more with the run's next page: a database that forgets its newest commits loses both or neither.
    let written = salvage.written;
    let ascii: Vec<Ascii> = written.iter().filter_map(Item::ascii).collect();
    let Pages { tasks, finished, invalid, .. } = rows(from_page, &written, &ascii);
    let mut whole = Pages { tasks, finished, invalid, ..whole };
    let mut advanced = add(&whole);
    if matches!(advanced, Err(StoreError::Row { .. })) {
        // What can be written one by one only is there by now.
        (whole.tasks, whole.finished, whole.invalid) = Default::default();
        advanced = add(&whole);
    }
    let advanced = advanced.inspect_err(|error| end(session, error))?;
    Ok(advanced.map(|_| {
        done.added.left_out.sort_unstable();
        done
    }))
}

/// A row of the run itself, or of this process, is refused.
fn end(session: &Session, error: &StoreError) {
    if matches!(error, StoreError::Row { .. }) {
        session.caller.end(Ending::from(error.clone()));
        session.tell();
    }
}

fn items(pages: &[PendingPages]) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut keys = HashSet::new();
    for pending in pages {
        for (place, record) in pending.pages.valid.iter().enumerate() {
            let form = if pending.is_finished(place) { Form::Campaign } else { Form::Task };
            let held = pending.is_held(place);
            items.push(Item { listed: Listed::Valid(record), held, form });
        }
        for (invalid, raw) in &pending.pages.invalid {
            if keys.insert(key_of(invalid, raw)) {
                let form = Form::Letter("invalid", invalid.reason.clone(), false);
                items.push(Item { listed: Listed::Invalid(invalid, raw), held: false, form });
            }
        }
    }
    items
}

/// The rows of these, in their forms, without the run's next page.
fn rows<'a>(from_page: i64, items: &'a [Item<'a>], ascii: &'a [Ascii]) -> Pages<'a> {
    let mut rows = Pages { from_page, next_page: from_page, ..Pages::default() };
    for item in items {
        match (&item.form, item.listed) {
            (Form::Campaign, Listed::Valid(record)) => rows.finished.push(&record.campaign),
            (Form::Task, Listed::Valid(record)) => rows.tasks.push(NewTask {
                id: &record.campaign.id,
                seq: record.seq,
                payload: record.raw.get(),
                held: item.held,
            }),
            (Form::Letter(cause, reason, retryable), Listed::Valid(record)) => {
                rows.invalid.push(NewDeadLetter {
                    key: record.campaign.id.clone(),
                    named: true,
                    cause,
                    reason,
                    attempts: 0,
                    payload: record.raw.get(),
                    retryable: *retryable,
                });
            }
            (_, Listed::Invalid(invalid, raw)) if !matches!(item.form, Form::Ascii(..)) => {
                rows.invalid.push(dead_letter(invalid, raw));
            }
            _ => {}
        }
    }
    rows.invalid.extend(ascii.iter().map(Ascii::letter));
    rows
}

impl<'a> Salvage<'a> {
    fn place(&mut self, items: &[Item<'a>]) -> Result<(), Interrupted> {
        let error = match self.write(items) {
            Ok(None) => return Ok(()),
            Ok(Some(error)) => error,
            Err(interrupted) => return Err(interrupted),
        };
        match items {
            [] => Ok(()),
            [item] => match item.next(&error) {
                Some(item) => self.place(&[item]),
                None => {
                    self.done.refused.get_or_insert((item.key().into_owned(), error));
                    self.done.added.left_out.push(item.key().into_owned());
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
    fn write(&mut self, items: &[Item<'a>]) -> Result<Option<StoreError>, Interrupted> {
        if self.session.caller.stop.requested() {
            return Err(Interrupted(Ok(())));
        }
        let ascii: Vec<Ascii> = items.iter().filter_map(Item::ascii).collect();
        let rows = rows(self.from_page, items, &ascii);
        match (self.add)(&rows) {
            Ok(Some(added)) => {
                self.note(items, added);
                Ok(None)
            }
            Ok(None) => Err(Interrupted(Ok(()))),
            Err(error @ StoreError::Row { .. }) if items.is_empty() => {
                end(self.session, &error);
                Err(Interrupted(Err(error)))
            }
            Err(error @ StoreError::Row { .. }) => Ok(Some(error)),
            Err(error) => Err(Interrupted(Err(error))),
        }
    }

    fn note(&mut self, items: &[Item<'a>], added: Added) {
        self.done.added.new += added.new;
        self.done.added.left_out.extend(added.left_out);
        self.done.added.taken.extend(added.taken);
        self.written.extend_from_slice(items);
        for item in items {
            match item.form {
                Form::Campaign => self.done.stored.insert(item.key().into_owned()),
                Form::Task => {}
                Form::Letter(..) | Form::Ascii(..) => {
                    self.done.added.left_out.push(item.key().into_owned());
                }
            }
        }
    }
}

impl Item<'_> {
    fn key(&self) -> Cow<'_, str> {
        match self.listed {
            Listed::Valid(record) => Cow::Borrowed(&record.campaign.id),
            Listed::Invalid(invalid, raw) => Cow::Owned(key_of(invalid, raw)),
        }
    }

    fn raw(&self) -> &str {
        match self.listed {
            Listed::Valid(record) => record.raw.get(),
            Listed::Invalid(_, raw) => raw,
        }
    }

    /// The next form to try after this error; none when there is no other, or when it is not for the record's sake.
    fn next(&self, error: &StoreError) -> Option<Self> {
        let form = match &self.form {
            // What a task comes to is seen to when it is finished.
            Form::Campaign => Form::Task,
            Form::Task if error.is_rows_fault() => Form::Letter("unstorable", unstorable(error), true),
            Form::Letter(cause, reason, retryable)
                if !(self.raw().is_ascii() && reason.is_ascii() && self.key().is_ascii()) =>
            {
                Form::Ascii(cause, reason.clone(), *retryable)
            }
            Form::Task | Form::Letter(..) | Form::Ascii(..) => return None,
        };
        Some(Self { form, ..self.clone() })
    }

    fn ascii(&self) -> Option<Ascii> {
        let Form::Ascii(cause, reason, retryable) = &self.form else { return None };
        let id = match self.listed {
            Listed::Valid(record) => Some(&record.campaign.id),
            Listed::Invalid(invalid, _) => invalid.id.as_ref(),
        };
        let id = id.filter(|id| id.is_ascii()).cloned();
        Some(Ascii {
            named: id.is_some(),
            retryable: *retryable && id.is_some(),
            key: id.unwrap_or_else(|| name_of(self.raw())),
            cause,
            reason: foreign::ascii(reason),
            payload: foreign::ascii_json(self.raw()),
        })
    }
}

/// A dead letter of ASCII characters.
struct Ascii {
    key: String,
    named: bool,
    cause: &'static str,
    reason: String,
    payload: String,
    retryable: bool,
}

impl Ascii {
    fn letter(&self) -> NewDeadLetter<'_> {
        NewDeadLetter {
            key: self.key.clone(),
            named: self.named,
            cause: self.cause,
            reason: &self.reason,
            attempts: 0,
            payload: &self.payload,
            retryable: self.retryable,
        }
    }
}

/// A dead letter's reason after this error.
pub(super) fn unstorable(error: &StoreError) -> String {
    format!("Postgres cannot store it: {error}")
}
