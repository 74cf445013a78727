//! Reads the answer of `GET /api/campaigns`. A page that is JSON as a whole is read at once. In one that is not, the good
//! records of `data` are found one by one, and each bad one is kept with its bytes and its place.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::answers::{MOST_TOTAL, unparsable};
use super::api::{CallError, ListedPage};
use super::broken::{Broken, Scanner};
use super::campaign::{kind_of, whole_number};
use super::wire::{ListAnswer, MOST_RECORDS, Pagination, Text};
use crate::foreign::one_line;

/// The longest piece of a value in a message, in characters.
const SHOWN: usize = 40;
/// Reads a page.
///
/// # Errors
/// When it is not what the contract says: then the message names the field and what stood there, or the place.
pub fn page(body: &[u8]) -> Result<ListedPage, CallError> {
    let read = match serde_json::from_slice::<ListAnswer<'_>>(body) {
        Ok(answer) => page_of(answer.data, Vec::new(), &answer.pagination),
        Err(strict) => leniently(body, &strict),
    };
    read.map_err(unparsable)
}

fn page_of(
    records: Vec<Box<RawValue>>,
    broken: Vec<Broken>,
    pagination: &Pagination<'_>,
) -> Result<ListedPage, String> {
    Ok(ListedPage {
        records,
        broken,
        has_more: flag("pagination.has_more", pagination.has_more.as_deref())?,
        page: number(pagination.page.as_deref()),
        limit: number(pagination.limit.as_deref()).filter(|limit| *limit >= 1),
        total: number(pagination.total.as_deref()).filter(|total| (0..=MOST_TOTAL).contains(total)),
        memory: None,
    })
}

/// A number that only informs, also when it stands there as a text; what is no number counts as absent.
fn number(value: Option<&str>) -> Option<i64> {
    let text = value?.trim();
    match serde_json::from_str::<Text<'_>>(text) {
        Ok(Text(text)) => whole_number(text.trim()),
        Err(_) => whole_number(text),
    }
}

/// What ends the listing, or does not: true and false, also as a text, and 1 and 0. Anything else is an error.
fn flag(name: &str, value: Option<&str>) -> Result<bool, String> {
    let Some(value) = value else { return Err(shape(&format!("{name} is missing"))) };
    let text = serde_json::from_str::<Text<'_>>(value).map_or(Cow::Borrowed(value), |Text(text)| text);
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(shape(&format!("{name} is {}, neither true nor false", one_line(value, SHOWN)))),
    }
}

fn shape(what: &str) -> String {
    format!("the platform answered with JSON of another shape than the contract's: {what}")
}

/// Reads a page that is no JSON as a whole, or JSON of another shape.
fn leniently(body: &[u8], strict: &serde_json::Error) -> Result<ListedPage, String> {
    let mut scanner = Scanner::new(body);
    let lost = |scanner: &Scanner<'_>, records: usize| {
        let what = if strict.is_eof() { "JSON that is cut short" } else { "no JSON" };
        let behind = if records > 0 { format!(", behind record {records}") } else { String::new() };
        format!("the platform answered with {what} (at byte {}{behind})", scanner.at())
    };
    if !scanner.enter(b'{') {
        return match serde_json::from_slice::<&RawValue>(body) {
            Ok(other) => Err(shape(&format!("it is not an object but {}", kind_of(other.get())))),
            Err(_) => Err(lost(&scanner, 0)),
        };
    }
    let mut data = None;
    let mut pagination = None;
    while let Some(name) = scanner.member() {
        match &*name {
            "data" if scanner.enter(b'[') => match records(&mut scanner) {
                Ok(records) => data = Some(records),
                Err(Unreadable::TooMany) => {
                    return Err(shape(&format!("data has more than {MOST_RECORDS} records")));
                }
                Err(Unreadable::Lost { records }) => return Err(lost(&scanner, records)),
            },
            "pagination" if scanner.enter(b'{') => {
                let mut fields = Pagination::default();
                while let Some(name) = scanner.member() {
                    let Some(value) = scanner.value() else { return Err(lost(&scanner, 0)) };
                    let value = Some(String::from_utf8_lossy(value).trim().to_owned());
                    match &*name {
                        "has_more" => fields.has_more = value.map(Cow::Owned),
                        "page" => fields.page = value.map(Cow::Owned),
                        "limit" => fields.limit = value.map(Cow::Owned),
                        "total" => fields.total = value.map(Cow::Owned),
                        _ => {}
                    }
                }
                if !scanner.leave_object() {
                    return Err(lost(&scanner, 0));
                }
                pagination = Some(fields);
            }
            name => {
                let Some(value) = scanner.value() else { return Err(lost(&scanner, 0)) };
                let wanted = match name {
                    "data" => "a list",
                    "pagination" => "an object",
                    _ => continue,
                };
                let found = String::from_utf8_lossy(value);
                return Err(shape(&format!("{name} is {}, not {wanted}", kind_of(&found))));
            }
        }
    }
    if !scanner.leave_object() || !scanner.is_at_end() {
        return Err(lost(&scanner, 0));
    }
    let (records, broken) = data.ok_or_else(|| shape("data is missing"))?;
    page_of(records, broken, &pagination.ok_or_else(|| shape("pagination is missing"))?)
}

/// Why the records of a page cannot be told apart.
enum Unreadable {
    TooMany,
    /// Behind so many.
    Lost {
        records: usize,
    },
}

/// The records of a list that was entered: the good ones, and the others.
fn records(scanner: &mut Scanner<'_>) -> Result<(Vec<Box<RawValue>>, Vec<Broken>), Unreadable> {
    let (mut records, mut broken) = (Vec::new(), Vec::new());
    while !scanner.leave_records() {
        let place = records.len() + broken.len() + 1;
        if place > MOST_RECORDS {
            return Err(Unreadable::TooMany);
        }
        if let Some(record) = scanner.element() {
            records.push(record.to_owned());
        } else {
            let damaged = scanner.broken_element();
            let damaged = damaged.ok_or(Unreadable::Lost { records: place - 1 })?;
            broken.push(Broken::new(place, damaged));
        }
    }
    Ok((records, broken))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(id: &str, more: &str) -> String {
        format!(
            r#"{{"id":"{id}","name":"Campaign {id}","status":"active","budget":27.50,"impressions":8123,"clicks":311,"conversions":12,"created_at":"2026-01-04T03:09:09.000Z"{more}}}"#
        )
    }

    fn envelope(records: &[String], pagination: &str) -> Vec<u8> {
        format!("{{\"data\":[{}],\"pagination\":{{{pagination}}}}}", records.join(", ")).into_bytes()
    }

    fn message(body: &[u8]) -> String {
        page(body).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn pagination_that_is_written_as_text_is_read() {
        for (fields, has_more, total) in [
            (r#""page":"1","limit":"10","total":"30","has_more":"true""#, true, Some(30)),
            (r#""page":1,"limit":10,"total":30.0,"has_more":"False""#, false, Some(30)),
            (r#""page":"one","limit":[],"total":"many","has_more":1"#, true, None),
            (r#""page":{"of":3},"limit":null,"total":-1,"has_more":0"#, false, None),
            (r#""page":NaN,"total":Infinity,"has_more":"1""#, true, None),
        ] {
            let read =
                page(&envelope(&[record("a", "")], fields)).unwrap_or_else(|e| panic!("{fields}: {e}"));
            assert_eq!((read.has_more, read.total, read.records.len()), (has_more, total, 1), "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_what_stood_there() {
        for (body, said) in [
            (
                r#"{"data":[],"pagination":{"has_more":"maybe"}}"#,
                r#"pagination.has_more is "maybe", neither"#,
            ),
            (r#"{"data":[],"pagination":{"has_more":[1]}}"#, "pagination.has_more is [1], neither"),
            (r#"{"data":[],"pagination":{"total":3}}"#, "pagination.has_more is missing"),
            (r#"{"data":[],"pagination":{"has_more":nope}}"#, "pagination.has_more is nope, neither"),
            (r#"{"data":[]}"#, "pagination is missing"),
            (r#"{"pagination":{"has_more":false}}"#, "data is missing"),
            (r#"{"data":{},"pagination":{"has_more":false}}"#, "data is an object, not a list"),
            (r#"{"data":[],"pagination":7}"#, "pagination is a number, not an object"),
            (r#"["surprise"]"#, "it is not an object but a list"),
            (r#"{"data":[{"id":"a"},{"id":"b""#, "JSON that is cut short (at byte"),
            ("<html>", "no JSON (at byte 0)"),
        ] {
            assert!(message(body.as_bytes()).contains(said), "{body}: {}", message(body.as_bytes()));
        }
        let long = format!(r#"{{"data":[],"pagination":{{"has_more":"{}"}}}}"#, "\u{202e}".repeat(1_000));
        assert!(message(long.as_bytes()).chars().count() < 200);
    }

    #[test]
    fn each_bad_record_is_kept_with_its_bytes_and_its_place() {
        let mut records: Vec<String> = (1..=100).map(|n| record(&format!("c{n}"), "")).collect();
        records[14] = records[14].replace("27.50", "NaN");
        records[15] = records[15].replace("Campaign c16", "Campaign\tc16");
        records[99] = records[99].replace("Campaign c100", "Campaign ?");
        let mut body = envelope(&records, r#""has_more":false"#);
        let mark = body.iter().position(|byte| *byte == b'?').unwrap();
        body[mark] = 0xe9;
        let read = page(&body).unwrap();
        assert_eq!(read.records.len(), 97);
        let places: Vec<usize> = read.broken.iter().map(|broken| broken.place).collect();
        assert_eq!(places, [15, 16, 100]);
        let ids: Vec<Option<&str>> = read.broken.iter().map(|broken| broken.id.as_deref()).collect();
        assert_eq!(ids, [Some("c15"), Some("c16"), Some("c100")]);
        assert_eq!(read.broken[0].payload, records[14]);
        assert_eq!(read.broken[1].payload, records[15]);
        assert!(read.broken[2].payload.starts_with("base64:"), "{}", read.broken[2].payload);
        assert!(read.broken[0].fault.contains("expected value"), "{}", read.broken[0].fault);
    }

    /// What this thread has had of a processor, however busy that is with others.
    fn processor_time() -> std::time::Duration {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        std::time::Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
    }

    #[test]
    fn damage_without_an_end_costs_bounded_time() {
        // Each of these would be looked through to its end for each of its many beginnings.
        for piece in [r#",{"a":["#, r#",{"a":"b"#, ",{", r#"],"a":[1"#, "],", "\""] {
            let body = format!(r#"{{"data":[{{"id":{}"#, piece.repeat(60_000));
            let before = processor_time();
            assert!(page(body.as_bytes()).is_err());
            let spent = processor_time() - before;
            assert!(spent.as_secs() < 30, "{piece} {spent:?}");
        }
    }

    /// Names with all that structure is made of, and what may be nested in a record.
    fn any_record() -> impl Strategy<Value = String> {
        let more = prop::sample::select(vec![
            "",
            r#","labels":[{"a":1},{"b":[2,{"c":"}],{"}]}],"last":{"x":{"y":"\"{"}}"#,
            r#","labels":{},"none":[],"text":"],\"pagination\":{}}""#,
            r#","nested":{"id":"inner","name":"n"},"more":[{"id":"x"},{"id":"y"}]"#,
        ]);
        ("[a-z]{1,8}", r#"([a-z,:{}\[\] ]|\\"|\\\\){0,12}"#, more)
            .prop_map(|(id, name, more)| record(&id, more).replace(&format!("Campaign {id}"), &name))
    }

    #[test]
    fn any_byte_of_a_record_may_become_any_part_of_the_structure() {
        let more = r#","labels":[{"a":1},{"b":[2,{"c":"}],{"}]}],"last":{"x":{"y":"\"{"}}"#;
        let records = [record("a", more), record("b", "")];
        let good = envelope(&records, r#""page":1,"limit":10,"total":30,"has_more":true"#);
        for at in 0..records[0].len() {
            for byte in *b"[]{}\",:\\ x" {
                let mut body = good.clone();
                body[br#"{"data":["#.len() + at] = byte;
                let survives = |read: ListedPage| read.records.iter().any(|kept| kept.get() == records[1]);
                assert!(page(&body).is_ok_and(survives), "{}", String::from_utf8_lossy(&body));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn one_damaged_byte_costs_no_record_but_its_own(
            records in prop::collection::vec(any_record(), 1..6),
            victim in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[],:\t\n\x00\xe9 x0".to_vec())],
        ) {
            let victim = victim.index(records.len());
            let mut body = envelope(&records, r#""page":1,"limit":10,"total":30,"has_more":true"#);
            let before: usize = records[..victim].iter().map(|record| record.len() + 2).sum();
            let from = br#"{"data":["#.len() + before;
            body[from + at.index(records[victim].len())] = byte;
            let read = page(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
            prop_assert_eq!((read.has_more, read.total), (true, Some(30)));
            let kept: Vec<&str> = read.records.iter().map(|record| record.get()).collect();
            for (place, record) in records.iter().enumerate() {
                if place != victim {
                    prop_assert!(kept.contains(&record.as_str()), "{} of {:?}", place, String::from_utf8_lossy(&body));
                }
            }
            prop_assert!(kept.len() + read.broken.len() >= records.len());
        }
    }
}
