//! The listing: records made from their number, never held, so that a million cost nothing.

use std::collections::HashMap;
use std::io::Write;

use serde_json::Value;

use crate::odd::{self, Fate};
use crate::settings::{Settings, mix};

/// What the platform says last of each campaign that has an id: its record as it was sent.
pub type Served = HashMap<String, String>;

/// Why syncs of a campaign never succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfortune {
    /// 404.
    NotFound,
    /// 410.
    Gone,
    /// `success: false`.
    Refused,
    /// 403.
    Forbidden,
    /// 500, always.
    Poisoned,
    /// No answer, ever.
    Hanging,
}

/// What befalls every sync of the ordinary campaign `n`.
pub(crate) fn misfortune(settings: &Settings, n: u32) -> Option<Misfortune> {
    let faults = &settings.faults;
    let every = |nth: u32| nth > 0 && n.is_multiple_of(nth);
    if every(faults.hanging_every.0) {
        Some(Misfortune::Hanging)
    } else if every(faults.poisoned_every) {
        Some(Misfortune::Poisoned)
    } else if every(faults.refused_every) {
        Some([Misfortune::NotFound, Misfortune::Gone, Misfortune::Refused][n as usize % 3])
    } else if every(faults.forbidden_every) {
        Some(Misfortune::Forbidden)
    } else {
        None
    }
}

/// The number of an ordinary campaign that is listed.
pub(crate) fn number(settings: &Settings, id: &str) -> Option<u32> {
    let digits = id.strip_prefix("campaign_")?;
    let n: u32 = digits.parse().ok()?;
    let plain = digits.starts_with(|first: char| first.is_ascii_digit() && first != '0');
    (plain && n <= settings.campaigns && settings.absent.binary_search(&n).is_err()).then_some(n)
}

/// The platform's campaigns: ordinary, odd, added.
pub(crate) struct Campaigns {
    odd: Vec<(String, String, Fate)>,
}

/// A page of the listing as it was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    /// From 1.
    pub number: u64,
    pub limit: u64,
}

impl Campaigns {
    pub fn new() -> Self {
        Self { odd: odd::records() }
    }

    /// Whether a sync of this id, which is not an ordinary one, is possible.
    pub fn knows_besides(&self, settings: &Settings, id: &str) -> bool {
        settings.odd && self.odd.iter().any(|(odd, ..)| odd == id)
            || settings.added.iter().any(|raw| id_of(raw).as_deref() == Some(id))
    }

    /// What a correct client makes of each: by id, or by the raw record where it has none that can be used.
    pub fn fates(&self, settings: &Settings) -> Vec<(String, Fate)> {
        let listed = (1..=settings.campaigns).filter(|n| settings.absent.binary_search(n).is_err());
        let ordinary = listed.map(|n| {
            let fate = if misfortune(settings, n).is_some() { Fate::DeadLetter } else { Fate::Row };
            (format!("campaign_{n}"), fate)
        });
        let odd = if settings.odd { self.odd.as_slice() } else { &[] };
        let named = |(id, raw, fate): &(String, String, Fate)| {
            (if id.is_empty() { raw.clone() } else { id.clone() }, *fate)
        };
        ordinary.chain(odd.iter().map(named)).collect()
    }

    /// The page as JSON; what it says of each campaign goes into `served` as well.
    pub fn page(&self, settings: &Settings, asked: Page, mut served: Option<&mut Served>) -> Vec<u8> {
        let total = self.total(settings);
        let (shown, has_more) = shown(settings, asked, total);
        let places =
            shown.map_or_else(Vec::new, |page| places(settings, Page { number: page, ..asked }, total));
        let mut out = Vec::with_capacity(places.len() * 240 + 128);
        out.extend_from_slice(b"{\"data\":[");
        for (i, place) in places.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            let from = out.len();
            let id = self.write_record(settings, *place, &mut out);
            if let (Some(served), Some(id)) = (served.as_deref_mut(), id) {
                served.insert(id.name(), String::from_utf8_lossy(&out[from..]).into_owned());
            }
        }
        let (off, by_page) = settings.total_off;
        let off = off.saturating_add(by_page.saturating_mul(i64::try_from(asked.number).unwrap_or(i64::MAX)));
        let told = total.saturating_add_signed(off);
        // Writing to a Vec cannot fail.
        let _infallible = write!(
            out,
            "],\"pagination\":{{\"page\":{},\"limit\":{},\"total\":{told},\"has_more\":{has_more}}}}}",
            asked.number, asked.limit
        );
        out
    }

    fn total(&self, settings: &Settings) -> u64 {
        let odd = if settings.odd { self.odd.len() } else { 0 };
        ordinary(settings) + (odd + settings.added.len()) as u64
    }

    fn write_record<'a>(&'a self, settings: &'a Settings, place: u64, out: &mut Vec<u8>) -> Option<Id<'a>> {
        let Some(place) = place.checked_sub(ordinary(settings)) else {
            let n = number_at(settings, place);
            write_ordinary(settings, n, out);
            return Some(Id::Ordinary(n));
        };
        let place = usize::try_from(place).ok()?;
        let odd = if settings.odd { self.odd.as_slice() } else { &[] };
        if let Some((id, raw, _)) = odd.get(place) {
            out.extend_from_slice(raw.as_bytes());
            return (!id.is_empty()).then(|| Id::Odd(id));
        }
        let raw = settings.added.get(place - odd.len())?;
        out.extend_from_slice(raw.as_bytes());
        id_of(raw).map(Id::Added)
    }
}

/// An id that costs nothing until it is needed.
enum Id<'a> {
    Ordinary(u64),
    Odd(&'a str),
    Added(String),
}

impl Id<'_> {
    fn name(self) -> String {
        match self {
            Self::Ordinary(n) => format!("campaign_{n}"),
            Self::Odd(id) => id.to_owned(),
            Self::Added(id) => id,
        }
    }
}

fn id_of(raw: &str) -> Option<String> {
    serde_json::from_str::<Value>(raw).ok()?.get("id")?.as_str().map(str::to_owned)
}

/// How many ordinary campaigns are listed.
fn ordinary(settings: &Settings) -> u64 {
    let absent = settings.absent.iter().filter(|n| (1..=settings.campaigns).contains(*n)).count();
    u64::from(settings.campaigns).saturating_sub(absent as u64)
}

/// The number of the ordinary campaign at this place, from 0, of the listing.
fn number_at(settings: &Settings, place: u64) -> u64 {
    settings.absent.iter().fold(place + 1, |n, absent| n + u64::from(u64::from(*absent) <= n))
}

fn write_ordinary(settings: &Settings, n: u64, out: &mut Vec<u8>) {
    let chance = mix(settings.seed.wrapping_add(u64::from(settings.revision) << 40), n);
    let revision = match settings.revision {
        0 => String::new(),
        revision => format!(", revision {revision}"),
    };
    let _infallible = write!(
        out,
        "{{\"id\":\"campaign_{n}\",\"name\":\"Campaign {n}{revision}\",\"status\":\"{}\",\"budget\":{}.{:02},\"impressions\":{},\"clicks\":{},\"conversions\":{},\"created_at\":\"2026-01-{:02}T{:02}:09:09.000Z\"}}",
        ["active", "paused", "ended"][usize::try_from(chance % 3).unwrap_or(0)],
        n * 100,
        chance % 100,
        chance % 100_000,
        chance % 1_000,
        chance % 100,
        chance % 28 + 1,
        chance % 24,
    );
}

/// Which page's records stand on this one (none: it is empty), and whether it says that more follow.
fn shown(settings: &Settings, asked: Page, total: u64) -> (Option<u64>, bool) {
    let faults = &settings.faults;
    let true_last = total.div_ceil(asked.limit).max(1);
    if faults.endless {
        return (Some(asked.number.min(true_last)), true);
    }
    let (repeated, empty) = (faults.repeated_page, faults.empty_page);
    let mut last = true_last + u64::from((1..=true_last).contains(&repeated));
    let has_empty = (1..=last).contains(&empty);
    last += u64::from(has_empty);
    let has_more = asked.number < last && (faults.ends_early == 0 || asked.number < faults.ends_early);
    let mut page = asked.number;
    if has_empty && page == empty {
        return (None, has_more);
    }
    page -= u64::from(has_empty && page > empty);
    page -= u64::from(repeated > 0 && page > repeated);
    (Some(page), has_more)
}

/// The places in the listing of what stands on a page.
fn places(settings: &Settings, page: Page, total: u64) -> Vec<u64> {
    let from = (page.number - 1).saturating_mul(page.limit).min(total);
    let to = (from + page.limit).min(total);
    let mut places: Vec<u64> = (from..to).collect();
    if settings.faults.duplicates && !places.is_empty() {
        places.push(places[0]);
        if from > 0 {
            places.insert(0, from - 1);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Faults;

    fn listing(settings: &Settings, limit: u64) -> (Vec<String>, u64) {
        let campaigns = Campaigns::new();
        let mut ids = Vec::new();
        for number in 1.. {
            let page = campaigns.page(settings, Page { number, limit }, None);
            let page: Value = serde_json::from_slice(&page).unwrap();
            ids.extend(page["data"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()));
            if page["pagination"]["has_more"] == false {
                return (ids, number);
            }
        }
        unreachable!()
    }

    #[test]
    fn repeated_and_empty_pages_hide_nothing() {
        for (repeated_page, empty_page) in
            [(0, 0), (1, 0), (3, 0), (0, 1), (0, 3), (2, 2), (3, 4), (2, 4), (9, 9)]
        {
            let faults = Faults { repeated_page, empty_page, ..Faults::default() };
            let (mut ids, pages) = listing(&Settings { faults, ..Settings::fast(25) }, 10);
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), 25, "{repeated_page} {empty_page}");
            assert!((3..=5).contains(&pages), "{repeated_page} {empty_page}: {pages}");
        }
    }

    #[test]
    fn what_is_absent_is_not_listed_and_what_is_added_is() {
        let added = vec![r#"{"id":"new"}"#.to_owned()];
        let settings = Settings { absent: vec![1, 2, 5], added, ..Settings::fast(6) };
        assert_eq!(listing(&settings, 2).0, ["campaign_3", "campaign_4", "campaign_6", "new"]);
        assert_eq!((number(&settings, "campaign_5"), number(&settings, "campaign_6")), (None, Some(6)));
        assert!(Campaigns::new().knows_besides(&settings, "new"));
    }

    #[test]
    fn another_revision_is_another_record_of_the_same_campaign() {
        let record = |revision| {
            let mut out = Vec::new();
            write_ordinary(&Settings { revision, ..Settings::fast(9) }, 4, &mut out);
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        assert_eq!(record(0)["id"], record(1)["id"]);
        assert_ne!(record(0), record(1));
        assert_eq!(record(1), record(1));
    }
}
