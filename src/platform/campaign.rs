//! One campaign as the platform lists it, checked field by field: what cannot be stored exactly is refused, never
//! rounded, defaulted or cut.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The longest id that can be a key in Postgres: its btree takes about 2,700 bytes an entry, the account's name included.
pub const MAX_ID_BYTES: usize = 2_000;

/// The fields that have columns of their own.
const FIELDS: [&str; 8] =
    ["id", "name", "status", "budget", "impressions", "clicks", "conversions", "created_at"];

/// The largest record, in bytes of JSON: some hundred times an ordinary one. A thousand of them may be in memory at once, and
/// in one message to Postgres, which takes no more than 1 GB.
pub const MOST_RECORD_BYTES: usize = 256 << 10;

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
    let mut fields = match serde_json::from_str::<Value>(raw.get()) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => {
            return Listed::Invalid(Invalid {
                id: None,
                reason: format!("not an object but {}", kind(&other)),
            });
        }
        Err(error) => {
            return Listed::Invalid(Invalid { id: None, reason: format!("unreadable JSON: {error}") });
        }
    };
    let id = match take_id(&mut fields) {
        Ok(id) => id,
        Err(reason) => return Listed::Invalid(Invalid { id: None, reason }),
    };
    match read_fields(id.clone(), fields) {
        Ok(campaign) => Listed::Valid(Arc::new(campaign)),
        Err(reason) => Listed::Invalid(Invalid { id: Some(id), reason }),
    }
}

/// Only its id is read: taken to pieces, a large record may need many times its size.
fn too_large(raw: &RawValue) -> Invalid {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let named = serde_json::from_str::<Named>(raw.get()).ok();
    let id = named.and_then(|named| take_id(&mut Map::from_iter([("id".to_owned(), named.id.into())])).ok());
    let reason = format!("the record has {} bytes, more than {MOST_RECORD_BYTES}", raw.get().len());
    Invalid { id, reason }
}

fn take_id(fields: &mut Map<String, Value>) -> Result<String, String> {
    let id = take_text(fields, "id")?;
    if id.is_empty() {
        return Err("id is empty".into());
    }
    if id.len() > MAX_ID_BYTES {
        return Err(format!("id has {} bytes, more than the {MAX_ID_BYTES} that a key can hold", id.len()));
    }
    Ok(id)
}

fn read_fields(id: String, mut fields: Map<String, Value>) -> Result<Campaign, String> {
    let campaign = Campaign {
        id,
        name: take_text(&mut fields, "name")?,
        status: take_text(&mut fields, "status")?,
        budget: take_decimal(&mut fields, "budget")?,
        impressions: take_count(&mut fields, "impressions")?,
        clicks: take_count(&mut fields, "clicks")?,
        conversions: take_count(&mut fields, "conversions")?,
        created_at: take_time(&mut fields, "created_at")?,
        extra: String::new(),
    };
    if fields.is_empty() {
        return Ok(Campaign { extra: "{}".into(), ..campaign });
    }
    let extra = Value::Object(fields).to_string();
    // A backslash pair may stand before the `u`, as in the text `\\u0000`, which is harmless: look at real values only then.
    if extra.contains("\\u0000") && has_nul(&serde_json::from_str(&extra).unwrap_or(Value::Null)) {
        return Err("an unknown field holds the character U+0000, which Postgres cannot store".into());
    }
    Ok(Campaign { extra, ..campaign })
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn take(fields: &mut Map<String, Value>, name: &str) -> Result<Value, String> {
    debug_assert!(FIELDS.contains(&name));
    fields.remove(name).ok_or_else(|| format!("{name} is missing"))
}

fn take_text(fields: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    match take(fields, name)? {
        Value::String(text) if text.contains('\0') => {
            Err(format!("{name} holds the character U+0000, which Postgres cannot store"))
        }
        Value::String(text) => Ok(text),
        other => Err(format!("{name} is {}, not a text", kind(&other))),
    }
}

fn take_count(fields: &mut Map<String, Value>, name: &str) -> Result<i64, String> {
    match take(fields, name)? {
        Value::Number(number) => match number.as_i64() {
            Some(count) if count >= 0 => Ok(count),
            _ => Err(format!(
                "{name} is {}, not a whole number from 0 to {}",
                shorten(number.as_str()),
                i64::MAX
            )),
        },
        other => Err(format!("{name} is {}, not a whole number", kind(&other))),
    }
}

fn take_decimal(fields: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    match take(fields, name)? {
        Value::Number(number) => match fits_numeric(number.as_str()) {
            true => Ok(number.as_str().to_owned()),
            false => Err(format!("{name} is {}, beyond what numeric can hold", shorten(number.as_str()))),
        },
        other => Err(format!("{name} is {}, not a number", kind(&other))),
    }
}

fn take_time(fields: &mut Map<String, Value>, name: &str) -> Result<SystemTime, String> {
    let text = take_text(fields, name)?;
    let time: Timestamp =
        text.parse().map_err(|_| format!("{name} is {:?}, not an RFC 3339 time", shorten(&text)))?;
    let micros = time.as_microsecond();
    let distance = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.ok_or_else(|| format!("{name} is {:?}, beyond what can be stored", shorten(&text)))
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

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
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
    fn times_before_1970_are_times() {
        let time = campaign(with("created_at", "\"1969-12-31T23:59:59.5Z\"")).created_at;
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(text in "\\PC{0,60}", field in 0usize..8) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _listed = with(FIELDS[field], &value.to_string());
            }
            let _listed = with(FIELDS[field], &Value::String(text).to_string());
        }
    }
}
