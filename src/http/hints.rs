//! The server's word on limits and waits, from every form that is in use. Malformed hints are ignored, never an error.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

use super::rate_limit::RateLimit;

/// A longer wait or window than this is no hint but a mistake.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// A reset above this is a moment, in seconds since 1970, and not a distance (it would be 31 years).
const EPOCH_FROM: f64 = 1e9;

/// What one response said of limits and waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// Come back after: `Retry-After`, or `retry_after` in the body; the longer, should there be both.
    pub retry_after: Option<Duration>,
    /// The whole limit, when the server tells both the number and the window.
    pub limit: Option<RateLimit>,
    /// The number of requests in a window, when it tells only that.
    pub quota: Option<u32>,
    /// Requests left before the window has to move on.
    pub remaining: Option<u32>,
    /// Until there is more to use.
    pub reset: Option<Duration>,
}

/// Reads a response's hints. `header` looks one up by its lower-case name; `wall` stands in for a missing `Date`.
///
/// Forms: `Retry-After` (RFC 9110, 10.2.3: seconds, or a date, which is taken relative to the response's own `Date`),
/// `RateLimit-Policy` and `RateLimit` (the IETF httpapi draft: structured fields with `q`, `w`, `r`, `t`; also its earlier
/// `limit=, remaining=, reset=` and `RateLimit-Limit/-Remaining/-Reset`), `X-RateLimit-*` (reset in seconds or since 1970).
#[must_use]
pub fn from_response<'a>(
    header: impl Fn(&str) -> Option<&'a str>,
    body_retry_after: Option<f64>,
    wall: SystemTime,
) -> Hints {
    let now = || header("date").and_then(http_date).unwrap_or_else(|| seconds_since_epoch(wall));
    let mut hints = Hints {
        retry_after: longer(
            header("retry-after").and_then(|text| retry_after(text, now)),
            body_retry_after.and_then(duration),
        ),
        ..Hints::default()
    };
    if let Some(policy) = header("ratelimit-policy") {
        hints.limit = members(policy).filter_map(|member| policy_of(&member)).min_by(by_rate);
    }
    if let Some(text) = header("ratelimit") {
        hints.read_ratelimit(text);
    }
    for prefix in ["ratelimit", "x-ratelimit"] {
        hints.read_triple(&header, prefix, now);
    }
    hints
}

/// Whether a header of this lower-case name may hold a hint: most responses have none.
#[must_use]
pub fn may_be_in(name: &str) -> bool {
    name == "retry-after" || name.contains("ratelimit")
}

impl Hints {
    /// Whether they say when to come back, or that nothing is left.
    #[must_use]
    pub fn speak_of_a_limit(&self) -> bool {
        self.retry_after.is_some() || self.remaining == Some(0)
    }

    /// How long to wait, in whatever form it was said.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after.or(self.reset)
    }

    /// `RateLimit: "default";r=0;t=37`, the most restrictive member; or `limit=10, remaining=0, reset=37`.
    fn read_ratelimit(&mut self, text: &str) {
        for member in members(text) {
            let (remaining, reset) = (member.number("r"), member.number("t").and_then(duration));
            if let Some(remaining) = remaining.and_then(count)
                && self.remaining.is_none_or(|known| remaining < known)
            {
                self.remaining = Some(remaining);
                self.reset = reset;
            }
            match member.name {
                "limit" => self.quota = member.value.and_then(number).and_then(count),
                "remaining" => self.remaining = member.value.and_then(number).and_then(count),
                "reset" => self.reset = member.value.and_then(number).and_then(duration),
                _ => {}
            }
        }
    }

    fn read_triple<'a>(
        &mut self,
        header: &impl Fn(&str) -> Option<&'a str>,
        prefix: &str,
        now: impl Fn() -> f64,
    ) {
        let Some(limit) = header(&format!("{prefix}-limit")) else { return };
        let mut found = members(limit);
        let first = found.next();
        self.quota = self.quota.or_else(|| first.as_ref().and_then(|member| count(number(member.name)?)));
        // The draft of 2019 puts the policy behind the limit: `10, 10;w=60`.
        let window =
            first.iter().cloned().chain(found).find_map(|member| member.number("w")).and_then(duration);
        let window =
            window.or_else(|| header(&format!("{prefix}-window")).and_then(number).and_then(duration));
        if let (Some(quota), Some(window), None) = (self.quota, window, self.limit) {
            self.limit = RateLimit::new(quota, window);
        }
        let field = |name: &str| header(&format!("{prefix}-{name}")).and_then(number);
        self.remaining = self.remaining.or_else(|| field("remaining").and_then(count));
        self.reset = self.reset.or_else(|| {
            let reset = field("reset")?;
            duration(if reset > EPOCH_FROM { (reset - now()).max(0.0) } else { reset })
        });
    }
}

fn retry_after(text: &str, now: impl Fn() -> f64) -> Option<Duration> {
    match number(text) {
        Some(seconds) => duration(seconds),
        None => duration((http_date(text)? - now()).max(0.0)),
    }
}

fn longer(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.max(other)
}

/// A policy with `q` and `w`; a window without a quota, or the reverse, is none.
fn policy_of(member: &Member<'_>) -> Option<RateLimit> {
    RateLimit::new(
        count(member.number("q").or_else(|| number(member.name))?)?,
        duration(member.number("w")?)?,
    )
}

fn by_rate(one: &RateLimit, other: &RateLimit) -> std::cmp::Ordering {
    let rate = |limit: &RateLimit| f64::from(limit.requests.get()) / limit.window.as_secs_f64();
    rate(one).total_cmp(&rate(other))
}

/// One member of a structured list: a name (or `name=value`), and parameters behind semicolons.
#[derive(Clone)]
struct Member<'a> {
    name: &'a str,
    value: Option<&'a str>,
    parameters: &'a str,
}

impl Member<'_> {
    fn number(&self, name: &str) -> Option<f64> {
        self.parameters.split(';').find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            (key.trim() == name).then(|| number(value))?
        })
    }
}

fn members(text: &str) -> impl Iterator<Item = Member<'_>> {
    // A comma or semicolon inside a quoted name splits it wrongly: such a member is not understood, and ignored.
    text.split(',').map(|member| {
        let (head, parameters) = member.split_once(';').unwrap_or((member, ""));
        let (name, value) = match head.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value)),
            None => (head.trim(), None),
        };
        Member { name: name.trim_matches('"'), value, parameters }
    })
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    // `f64` would also take "inf", "nan" and exponents.
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn count(number: f64) -> Option<u32> {
    (number >= 0.0 && number <= f64::from(u32::MAX) && number.fract() == 0.0).then_some(number as u32)
}

fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= LONGEST)
}

#[allow(clippy::cast_precision_loss)]
fn http_date(text: &str) -> Option<f64> {
    let text = text.trim();
    let time = rfc2822::DateTimeParser::new().parse_timestamp(text).ok().or_else(|| obsolete_date(text))?;
    Some(time.as_second() as f64)
}

/// The two older forms that RFC 9110, 5.6.7, has recipients accept: RFC 850's and that of C's `asctime`.
fn obsolete_date(text: &str) -> Option<Timestamp> {
    let forms = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let time = forms.into_iter().find_map(|form| DateTime::strptime(form, text).ok())?;
    TimeZone::UTC.to_timestamp(time).ok()
}

fn seconds_since_epoch(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |duration| duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use std::cell::RefCell;

    use super::*;

    fn hints(headers: &[(&str, &str)]) -> Hints {
        let headers: HashMap<&str, &str> = headers.iter().copied().collect();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_473_859);
        from_response(|name| headers.get(name).copied(), None, wall)
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_own_clock() {
        assert_eq!(hints(&[("retry-after", "60")]).retry_after, seconds(60));
        assert_eq!(
            hints(&[
                ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT"),
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT")
            ])
            .retry_after,
            seconds(60)
        );
        assert_eq!(hints(&[("retry-after", "Sat, 03 Jan 2026 20:58:39 GMT")]).retry_after, seconds(60));
        assert_eq!(hints(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]).retry_after, seconds(0));
    }

    #[test]
    fn a_date_may_have_any_of_the_three_forms() {
        for date in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(http_date(date), Some(784_111_777.0), "{date}");
        }
    }

    #[test]
    fn the_body_counts_like_the_header() {
        let none = |_: &str| None;
        assert_eq!(
            from_response(none, Some(1.5), SystemTime::UNIX_EPOCH).retry_after,
            Some(Duration::from_millis(1500))
        );
        assert_eq!(from_response(|_| Some("2"), Some(60.0), SystemTime::UNIX_EPOCH).retry_after, seconds(60));
    }

    #[test]
    fn the_drafts_structured_fields_are_understood() {
        let seen = hints(&[
            ("ratelimit-policy", r#""burst";q=100;w=60, "daily";q=1000;w=86400"#),
            ("ratelimit", r#""burst";r=50;t=30, "daily";r=0;t=3600"#),
        ]);
        assert_eq!(seen.limit, RateLimit::new(1000, Duration::from_secs(86_400)));
        assert_eq!((seen.remaining, seen.reset), (Some(0), seconds(3600)));
        let seen = hints(&[("ratelimit", "limit=10, remaining=3, reset=37")]);
        assert_eq!((seen.quota, seen.remaining, seen.reset), (Some(10), Some(3), seconds(37)));
        let seen = hints(&[
            ("ratelimit-limit", "10, 10;w=60"),
            ("ratelimit-remaining", "2"),
            ("ratelimit-reset", "5"),
        ]);
        assert_eq!(seen.limit, RateLimit::new(10, Duration::from_secs(60)));
        assert_eq!((seen.quota, seen.remaining, seen.reset), (Some(10), Some(2), seconds(5)));
    }

    #[test]
    fn a_reset_is_a_distance_or_a_moment() {
        let with = |reset| hints(&[("x-ratelimit-limit", "10"), ("x-ratelimit-reset", reset)]);
        assert_eq!(with("37").reset, seconds(37));
        assert_eq!(with("1767473896").reset, seconds(37));
        assert_eq!(with("1767473800").reset, seconds(0));
    }

    #[test]
    fn every_header_that_is_read_is_known_to_hold_hints() {
        let asked = RefCell::new(Vec::new());
        let header = |name: &str| {
            asked.borrow_mut().push(name.to_owned());
            (!name.ends_with("remaining")).then_some("10")
        };
        let seen = from_response(header, None, SystemTime::UNIX_EPOCH);
        let asked = asked.into_inner();
        assert!(seen.quota == Some(10) && asked.len() >= 10, "{seen:?}: {asked:?}");
        assert!(asked.iter().all(|name| may_be_in(name) || name == "date"), "{asked:?}");
    }

    #[test]
    fn nonsense_is_ignored() {
        for text in ["", "-1", "soon", "1e9", "NaN", "inf", "999999999999", "0x10", "1;2", "Sun, 99 Nov 1994"]
        {
            assert_eq!(hints(&[("retry-after", text)]), Hints::default(), "{text}");
        }
        assert_eq!(hints(&[("ratelimit-policy", "q=10;w=60")]).limit, None);
        assert_eq!(hints(&[("ratelimit-policy", r#""a";q=0;w=60, "b";q=1.5;w=60, "c";q=5"#)]).limit, None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_wait_for_years(
            texts in prop::collection::vec(
                prop_oneof![any::<String>(), "[ -~]{0,40}", "(\"?[a-z]{0,9}\"?[;,=. ]?[qwrt]?=?[0-9.]{0,12}[;, ]?){0,4}"],
                1..8,
            ),
            body in prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY), 0.0..1e12],
            wall in any::<u32>(),
        ) {
            // Another text for every header, by its name's length.
            let header = |name: &str| Some(texts[name.len() % texts.len()].as_str());
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(wall.into());
            let seen = from_response(header, Some(body), wall);
            prop_assert!(seen.limit.is_none_or(|limit| limit.window <= LONGEST));
            prop_assert!(seen.retry_after.is_none_or(|wait| wait <= LONGEST));
            prop_assert!(seen.reset.is_none_or(|wait| wait <= LONGEST));
        }
    }
}
