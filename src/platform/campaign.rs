//! One campaign as the platform lists it, checked field by field: what cannot be stored exactly is refused, never
//! rounded, defaulted or cut.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::fmt::temporal::Pieces;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::wire::Text;

/// The longest id that can be a key in Postgres: its btree takes about 2,700 bytes an entry, the account's name included.
pub const MAX_ID_BYTES: usize = 2_000;

/// The largest record, in bytes of JSON: some hundred times an ordinary one. A thousand of them may be in memory at once, and
/// in one message to Postgres, which takes no more than 1 GB.
pub const MOST_RECORD_BYTES: usize = 256 << 10;

/// The fields of the contract.
pub(super) const FIELDS: [&str; 8] =
    ["id", "name", "status", "budget", "impressions", "clicks", "conversions", "created_at"];

/// A valid campaign, ready to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Campaign {
    /// The platform's id, unique within an account; 1 to [`MAX_ID_BYTES`] bytes.
    pub id: String,
    /// The display name.
    pub name: String,
    /// The platform's word for its state, such as `active`.
    pub status: String,
    /// Money, as the decimal that was served, digit by digit.
    pub budget: String,
    /// Views counted so far.
    pub impressions: i64,
    /// Clicks counted so far.
    pub clicks: i64,
    /// Conversions counted so far.
    pub conversions: i64,
    /// When it was created, to the microsecond, as Postgres keeps it.
    pub created_at: SystemTime,
    /// All fields that this version does not know, as a JSON object.
    pub extra: String,
}

/// A record of a listing that came through the checks, or did not.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    /// It can be synced and stored.
    Valid(Arc<Campaign>),
    /// It cannot; it is kept with its reason.
    Invalid(Invalid),
}

/// Why a record of a listing is no campaign that could be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Its id, when it has a usable one.
    pub id: Option<String>,
    /// The field and what is wrong with it, in one line.
    pub reason: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Checks one element of a listing's `data`.
#[must_use]
pub fn read_record(raw: &RawValue) -> Listed {
    if raw.get().len() > MOST_RECORD_BYTES {
        return Listed::Invalid(too_large(raw));
    }
    if kind(raw) != OBJECT {
        return Listed::Invalid(Invalid { id: None, reason: format!("not an object but {}", kind(raw)) });
    }
    let fields = match serde_json::from_str::<Fields>(raw.get()) {
        Ok(fields) => fields,
        Err(error) => return Listed::Invalid(Invalid { id: None, reason: unreadable("it", &error) }),
    };
    let id = match read_id(fields.id) {
        Ok(id) => id,
        Err(reason) => return Listed::Invalid(Invalid { id: None, reason }),
    };
    match read_fields(id.clone(), fields) {
        Ok(campaign) => Listed::Valid(Arc::new(campaign)),
        Err(reason) => Listed::Invalid(Invalid { id: Some(id), reason }),
    }
}

/// A record's fields as they came; the last one of a name counts. Nothing is taken to pieces that need not be.
#[derive(Default)]
struct Fields<'a> {
    id: Option<&'a RawValue>,
    name: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
    budget: Option<&'a RawValue>,
    impressions: Option<&'a RawValue>,
    clicks: Option<&'a RawValue>,
    conversions: Option<&'a RawValue>,
    created_at: Option<&'a RawValue>,
    unknown: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AllFields;
        impl<'de> Visitor<'de> for AllFields {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(OBJECT)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some((Text(name), value)) = map.next_entry()? {
                    let field = match &*name {
                        "id" => &mut fields.id,
                        "name" => &mut fields.name,
                        "status" => &mut fields.status,
                        "budget" => &mut fields.budget,
                        "impressions" => &mut fields.impressions,
                        "clicks" => &mut fields.clicks,
                        "conversions" => &mut fields.conversions,
                        "created_at" => &mut fields.created_at,
                        _ => {
                            fields.unknown.push((name, value));
                            continue;
                        }
                    };
                    // What counts no more has to be JSON all the same.
                    if let Some(earlier) = field.replace(value) {
                        serde_json::from_str::<Value>(earlier.get()).map_err(A::Error::custom)?;
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(AllFields)
    }
}

/// Only its id is read: taken to pieces, a large record may need many times its size.
fn too_large(raw: &RawValue) -> Invalid {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let named = serde_json::from_str::<Named>(raw.get()).ok();
    let id = named.and_then(|named| read_id(Some(named.id)).ok());
    let reason = format!("the record has {} bytes, more than {MOST_RECORD_BYTES}", raw.get().len());
    Invalid { id, reason }
}

pub(super) fn read_id(raw: Option<&RawValue>) -> Result<String, String> {
    let id = text("id", raw)?;
    if id.is_empty() {
        return Err("id is empty".into());
    }
    if id.len() > MAX_ID_BYTES {
        return Err(format!("id has {} bytes, more than the {MAX_ID_BYTES} that a key can hold", id.len()));
    }
    Ok(id)
}

fn read_fields(id: String, fields: Fields<'_>) -> Result<Campaign, String> {
    Ok(Campaign {
        id,
        name: text("name", fields.name)?,
        status: text("status", fields.status)?,
        budget: decimal("budget", fields.budget)?,
        impressions: count("impressions", fields.impressions)?,
        clicks: count("clicks", fields.clicks)?,
        conversions: count("conversions", fields.conversions)?,
        created_at: time("created_at", fields.created_at)?,
        extra: extra(fields.unknown)?,
    })
}

fn extra(unknown: Vec<(Cow<'_, str>, &RawValue)>) -> Result<String, String> {
    if unknown.is_empty() {
        return Ok("{}".into());
    }
    let mut fields = Map::new();
    for (name, raw) in unknown {
        let value = raw_value(&format!("the field {:?}", shorten(&name)), raw)?;
        fields.insert(name.into_owned(), value);
    }
    let fields = Value::Object(fields);
    let extra = fields.to_string();
    // A backslash pair may stand before the `u`, as in the text `\\u0000`, which is harmless: look at real values only then.
    if extra.contains("\\u0000") && has_nul(&fields) {
        return Err("an unknown field holds the character U+0000, which Postgres cannot store".into());
    }
    Ok(extra)
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn present<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<&'a RawValue, String> {
    raw.ok_or_else(|| format!("{name} is missing"))
}

/// What syntax alone lets through may still be no value: half of a surrogate pair, nesting without an end.
fn raw_value<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(raw.get()).map_err(|error| unreadable(name, &error))
}

fn unreadable(name: &str, error: &serde_json::Error) -> String {
    format!("{name} is unreadable JSON: {error}")
}

fn text(name: &str, raw: Option<&RawValue>) -> Result<String, String> {
    let raw = present(name, raw)?;
    if kind(raw) != TEXT {
        return Err(format!("{name} is {}, not a text", kind(raw)));
    }
    let text: String = raw_value(name, raw)?;
    match text.contains('\0') {
        true => Err(format!("{name} holds the character U+0000, which Postgres cannot store")),
        false => Ok(text),
    }
}

fn count(name: &str, raw: Option<&RawValue>) -> Result<i64, String> {
    let raw = present(name, raw)?;
    if kind(raw) != NUMBER {
        return Err(format!("{name} is {}, not a whole number", kind(raw)));
    }
    match whole_number(raw.get()) {
        Some(count) if count >= 0 => Ok(count),
        _ => Err(format!("{name} is {}, not a whole number from 0 to {}", shorten(raw.get()), i64::MAX)),
    }
}

/// A whole number that is written as one, or with zeros behind the point.
pub(super) fn whole_number(text: &str) -> Option<i64> {
    let whole = match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|digit| digit == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    whole.parse().ok()
}

fn decimal(name: &str, raw: Option<&RawValue>) -> Result<String, String> {
    let raw = present(name, raw)?;
    if kind(raw) != NUMBER {
        return Err(format!("{name} is {}, not a number", kind(raw)));
    }
    match fits_numeric(raw.get()) {
        true => Ok(raw.get().to_owned()),
        false => Err(format!("{name} is {}, beyond what numeric can hold", shorten(raw.get()))),
    }
}

fn time(name: &str, raw: Option<&RawValue>) -> Result<SystemTime, String> {
    let text = text(name, raw)?;
    let micros = match text.parse::<Timestamp>() {
        Ok(time) => i128::from(time.as_microsecond()),
        Err(_) => micros_of(&text).map_err(|wrong| format!("{name} is {:?}, {wrong}", shorten(&text)))?,
    };
    let distance = u64::try_from(micros.unsigned_abs()).map(Duration::from_micros).ok();
    let time = distance.and_then(|distance| match micros < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(distance),
        false => SystemTime::UNIX_EPOCH.checked_add(distance),
    });
    time.ok_or_else(|| format!("{name} is {:?}, beyond what can be stored", shorten(&text)))
}

/// Microseconds since 1970 of a time that [`Timestamp`] does not take: it ends in the last days of the year 9999, so that
/// every time zone can show what it holds.
fn micros_of(text: &str) -> Result<i128, &'static str> {
    let pieces = Pieces::parse(text).map_err(|_| "not an RFC 3339 time")?;
    let time = pieces.time().ok_or("a date without a time of day")?;
    let offset = pieces.to_numeric_offset().ok_or("a time without an offset from UTC, such as Z")?;
    let days = pieces.date().since(Date::constant(1970, 1, 1)).map_err(|_| "beyond what can be stored")?;
    let hours = i128::from(days.get_days()) * 24 + i128::from(time.hour());
    let seconds = (hours * 60 + i128::from(time.minute())) * 60 + i128::from(time.second());
    let seconds = seconds - i128::from(offset.seconds());
    Ok(seconds * 1_000_000 + i128::from(time.subsec_nanosecond() / 1_000))
}

/// Whether Postgres' unconstrained `numeric` holds this JSON number exactly: at most 131,072 digits before the point and
/// 16,383 behind it (PostgreSQL manual, 8.1.2).
fn fits_numeric(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let Ok(exponent) = exponent.parse::<i64>() else { return false };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits_before = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(exponent);
    let digits_behind = i64::try_from(fraction.len()).unwrap_or(i64::MAX).saturating_sub(exponent);
    digits_before <= 131_072 && digits_behind <= 16_383
}

const OBJECT: &str = "an object";
const TEXT: &str = "a text";
const NUMBER: &str = "a number";

/// What a JSON value is, which its first character tells.
fn kind(raw: &RawValue) -> &'static str {
    kind_of(raw.get())
}

pub(super) fn kind_of(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => OBJECT,
        Some(b'[') => "a list",
        Some(b'"') => TEXT,
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => NUMBER,
    }
}

/// The beginning of a foreign text, for a message: at most 40 characters.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"id":"campaign_17","name":"Campaign 17","status":"active","budget":2700,"impressions":8123,
        "clicks":311,"conversions":12,"created_at":"2026-01-04T03:09:09.000Z"}"#;

    fn read(json: &str) -> Listed {
        read_record(&RawValue::from_string(json.to_owned()).unwrap())
    }

    fn with(field: &str, value: &str) -> Listed {
        let mut record: Map<String, Value> = serde_json::from_str(GOOD).unwrap();
        record.insert(field.into(), serde_json::from_str(value).unwrap());
        read(&Value::Object(record).to_string())
    }

    fn reason(listed: Listed) -> String {
        match listed {
            Listed::Invalid(invalid) => invalid.reason,
            Listed::Valid(campaign) => panic!("valid: {campaign:?}"),
        }
    }

    fn campaign(listed: Listed) -> Campaign {
        match listed {
            Listed::Valid(campaign) => (*campaign).clone(),
            Listed::Invalid(invalid) => panic!("{invalid:?}"),
        }
    }

    #[test]
    fn a_budget_keeps_every_digit() {
        for budget in ["0.1", "1234567890123456789012345678901234567890.123456789", "-2.50", "1e3", "2700"] {
            let kept = campaign(with("budget", budget)).budget;
            assert_eq!(kept.to_lowercase().replace("e+", "e"), budget);
        }
    }

    #[test]
    fn every_field_of_the_contract_is_needed_in_its_type() {
        for field in FIELDS {
            let mut record: Map<String, Value> = serde_json::from_str(GOOD).unwrap();
            record.remove(field);
            assert_eq!(reason(read(&Value::Object(record).to_string())), format!("{field} is missing"));
            for wrong in ["null", "[]", "{}", "true"] {
                assert!(reason(with(field, wrong)).starts_with(&format!("{field} is ")));
            }
        }
    }

    #[test]
    fn counts_are_whole_numbers_in_range() {
        for wrong in ["-1", "1.5", "9223372036854775808", "1e3", "\"7\""] {
            assert!(reason(with("clicks", wrong)).starts_with("clicks is "), "{wrong}");
        }
        assert_eq!(campaign(with("clicks", "9223372036854775807")).clicks, i64::MAX);
    }

    #[test]
    fn unknown_fields_are_kept_as_they_came() {
        let extra = campaign(with("labels", r#"{"a":[1,2.50,"\\u0000"]}"#)).extra;
        assert_eq!(extra, r#"{"labels":{"a":[1,2.50,"\\u0000"]}}"#);
    }

    #[test]
    fn what_postgres_cannot_hold_is_refused_with_its_field() {
        assert!(reason(with("name", r#""a\u0000b""#)).contains("name holds the character U+0000"));
        assert!(reason(with("labels", r#"["a\u0000b"]"#)).contains("unknown field holds"));
        assert!(reason(with("budget", "1e131073")).contains("beyond what numeric can hold"));
        assert!(reason(with("budget", "1e-99999999999999999999")).contains("beyond"));
        assert!(reason(with("created_at", "\"yesterday\"")).contains("not an RFC 3339 time"));
        assert!(reason(with("id", &format!("\"{}\"", "x".repeat(10_000)))).contains("10000 bytes"));
        assert!(reason(read(r#"{"id":"a\ud800"}"#)).contains("unreadable JSON"));
        assert!(reason(read("17")).contains("not an object but a number"));
    }

    #[test]
    fn what_is_no_value_in_spite_of_its_syntax_is_refused_with_its_field() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for (field, value, reason) in
            [("name", r#""a\ud800""#, "name is unreadable"), ("labels", &deep, "\"labels\" is unreadable")]
        {
            let record = format!("{},{field:?}:{value}}}", GOOD.strip_suffix('}').unwrap());
            let Listed::Invalid(invalid) = read(&record) else { panic!("{record}") };
            assert_eq!(invalid.id.as_deref(), Some("campaign_17"), "{invalid}");
            assert!(invalid.reason.contains(reason), "{invalid}");
        }
        let twice = GOOD.replace(r#""name":"#, r#""name":"a\ud800","name":"#);
        let refused = reason(read(&twice));
        assert!(refused.starts_with("it is unreadable JSON: "), "{refused}");
    }

    #[test]
    fn a_whole_number_may_have_zeros_behind_its_point() {
        for (text, count) in [("5.0", 5), ("5.000", 5), ("0.0", 0), ("9223372036854775807.0", i64::MAX)] {
            let listed = read(&GOOD.replace("\"clicks\":311", &format!("\"clicks\":{text}")));
            assert_eq!(campaign(listed).clicks, count, "{text}");
        }
        for wrong in ["5.01", "-5.0", "9223372036854775808.0", "1.0e1"] {
            let listed = read(&GOOD.replace("\"clicks\":311", &format!("\"clicks\":{wrong}")));
            assert!(reason(listed).starts_with("clicks is "), "{wrong}");
        }
    }

    #[test]
    fn the_last_days_of_the_last_year_are_times() {
        for (text, micros) in [
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
            ("9999-12-31T23:59:59+01:00", 253_402_297_199_000_000),
            ("9999-12-30T22:00:00Z", 253_402_207_200_000_000),
        ] {
            let time = campaign(with("created_at", &format!("\"{text}\""))).created_at;
            assert_eq!(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros(), micros, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_time_is_said() {
        for (text, wrong) in [
            ("2026-01-04", "a date without a time of day"),
            ("2026-01-04T03:09:09", "a time without an offset from UTC"),
            ("2026-02-30T03:09:09Z", "not an RFC 3339 time"),
        ] {
            let refused = reason(with("created_at", &format!("\"{text}\"")));
            assert!(refused.contains(wrong), "{refused}");
        }
    }

    #[test]
    fn times_before_1970_are_times() {
        let time = campaign(with("created_at", "\"1969-12-31T23:59:59.5Z\"")).created_at;
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(500));
    }

    proptest! {
        /// Names that are written with escapes, or twice, mean what they mean to every reader of JSON.
        #[test]
        fn a_record_is_read_as_if_it_had_been_taken_to_pieces(
            more in prop::collection::vec((0usize..10, any::<bool>(), 0i64..100), 0..6)
        ) {
            let mut record = GOOD.strip_suffix('}').unwrap().to_owned();
            for (field, escaped, value) in &more {
                let name = *FIELDS.get(*field).unwrap_or(&["labels", "Labels"][field % 2]);
                let name = match escaped {
                    true => name.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect(),
                    false => name.to_owned(),
                };
                let value = if [0, 1, 2].contains(field) { format!("\"{value}\"") } else { value.to_string() };
                record += &format!(", \"{name}\" : {value} ");
            }
            record.push('}');
            let pieces: Map<String, Value> = serde_json::from_str(&record).unwrap();
            match read(&record) {
                Listed::Valid(campaign) => {
                    let known = [&campaign.id, &campaign.name, &campaign.status];
                    for (field, value) in FIELDS.iter().zip(known) {
                        prop_assert_eq!(&pieces[*field], value);
                    }
                    prop_assert_eq!(pieces["budget"].to_string(), campaign.budget.as_str());
                    prop_assert_eq!(pieces["clicks"].as_i64(), Some(campaign.clicks));
                    let unknown: Map<String, Value> =
                        pieces.into_iter().filter(|(name, _)| !FIELDS.contains(&&**name)).collect();
                    prop_assert_eq!(Value::Object(unknown).to_string(), campaign.extra.as_str());
                }
                // The one field that is given a value of the wrong type.
                Listed::Invalid(invalid) => prop_assert!(invalid.reason.starts_with("created_at is"), "{}", invalid),
            }
        }

        #[test]
        fn no_json_makes_it_panic(text in "\\PC{0,60}", field in 0usize..8) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _listed = with(FIELDS[field], &value.to_string());
            }
            let _listed = with(FIELDS[field], &Value::String(text).to_string());
        }
    }
}
