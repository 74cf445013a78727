//! Answers in the platform's words, and what they say of its limits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::limiter::Standing;
use crate::server::{Answer, Response};
use crate::settings::{Hint, Settings};

pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer::Whole(Response { status, body: body.into(), ..Response::default() })
}

pub(crate) fn error(status: u16, error: &str, message: &str) -> Answer {
    json(status, format!("{{\"error\":\"{error}\",\"message\":\"{message}\"}}"))
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Seconds since 1970.
pub(crate) fn epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A number of seconds as servers write it: whole, rounded down so as never to promise too much, unless below one.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{}", duration.as_secs_f64()),
        whole => whole.to_string(),
    }
}

/// The 429 of a request that the limiter refused.
pub(crate) fn refusal(settings: &Settings, standing: Standing) -> Answer {
    let window = settings.rate_limit.map_or(Duration::ZERO, |(_, window)| window);
    let whole = standing.reset.as_secs_f64().ceil();
    let (in_body, headers) = match settings.hint {
        Hint::Body => (format!(",\"retry_after\":{}", window.as_secs_f64()), Vec::new()),
        Hint::Seconds => (String::new(), vec![("Retry-After", format!("{whole}"))]),
        Hint::Date => (
            String::new(),
            vec![
                ("Retry-After", http_date(SystemTime::now() + Duration::from_secs_f64(whole))),
                ("Date", http_date(SystemTime::now())),
            ],
        ),
        Hint::RateLimit | Hint::XDelta | Hint::XEpoch | Hint::None => (String::new(), Vec::new()),
    };
    let body = format!("{{\"error\":\"Too Many Requests\",\"message\":\"Rate limit exceeded\"{in_body}}}");
    Answer::Whole(Response { status: 429, headers, body: body.into_bytes(), ..Response::default() })
}

/// Adds the headers of the forms that stand on every answer to a request that counts.
pub(crate) fn with_limit_headers(answer: Answer, settings: &Settings, standing: Option<Standing>) -> Answer {
    let (Some((limit, window)), Some(standing)) = (settings.rate_limit, standing) else { return answer };
    let Answer::Whole(mut response) = answer else { return answer };
    let reset = standing.reset.as_secs_f64().ceil();
    let (remaining, seconds) = (standing.remaining, window.as_secs_f64());
    match settings.hint {
        Hint::RateLimit => {
            response.headers.push(("RateLimit-Policy", format!("\"default\";q={limit};w={seconds}")));
            response.headers.push(("RateLimit", format!("\"default\";r={remaining};t={reset}")));
        }
        Hint::XDelta | Hint::XEpoch => {
            let from = if settings.hint == Hint::XEpoch { epoch() } else { 0 };
            if settings.hint == Hint::XEpoch {
                // A server with a clock says what it shows (RFC 9110, 6.6.1): the client's may show something else.
                response.headers.push(("Date", http_date(SystemTime::now())));
            }
            response.headers.push(("X-RateLimit-Limit", limit.to_string()));
            response.headers.push(("X-RateLimit-Remaining", remaining.to_string()));
            response.headers.push((
                "X-RateLimit-Reset",
                (Duration::from_secs(from) + Duration::from_secs_f64(reset)).as_secs().to_string(),
            ));
        }
        Hint::Body | Hint::Seconds | Hint::Date | Hint::None => {}
    }
    Answer::Whole(response)
}

fn http_date(time: SystemTime) -> String {
    let seconds =
        time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
}
