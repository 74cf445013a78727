//! W3C Trace Context, level 1: the ids of traces and spans, and the header that tells them to a server.

use std::fmt;

use ureq::http::HeaderName;

use super::clock::Clock;
use super::hex::push_hex;

/// The header's name.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Names all that one account's part in a run does: 16 bytes, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(u64, u64);

/// Names one step of it: 8 bytes, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl TraceId {
    /// An id that nobody else has.
    #[must_use]
    pub fn random(clock: &dyn Clock) -> Self {
        Self(random(clock), random(clock))
    }

    /// Its 16 bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        ((u128::from(self.0) << 64) | u128::from(self.1)).to_be_bytes()
    }
}

impl SpanId {
    /// An id that no other step of the trace has.
    #[must_use]
    pub fn random(clock: &dyn Clock) -> Self {
        Self(random(clock))
    }

    /// Its 8 bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The header's value. `sampled` says whether this side keeps the span: a server that follows it keeps its own then too.
#[must_use]
pub fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> String {
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    push_hex(&mut text, &trace.bytes());
    text.push('-');
    push_hex(&mut text, &span.bytes());
    text.push_str(if sampled { "-01" } else { "-00" });
    text
}

/// 64 random bits that are not all zero: two halves, as the clock's numbers have 53 bits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn random(clock: &dyn Clock) -> u64 {
    let half = || (clock.random() * 4_294_967_296.0) as u64;
    (half() << 32 | half()).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::http::clock::VirtualClock;

    #[test]
    fn the_header_has_the_form_of_the_recommendation() {
        let (trace, span) = (TraceId(0x0af7_6519_16cd_43dd, 0x8448_eb21_1c80_319c), SpanId(0x00f0_67aa));
        assert_eq!(traceparent(trace, span, true), "00-0af7651916cd43dd8448eb211c80319c-0000000000f067aa-01");
        assert!(traceparent(trace, span, false).ends_with("-00"));
    }

    #[test]
    fn ids_are_new_each_time_and_use_all_their_bits() {
        let clock = VirtualClock::new(9);
        let ids: Vec<SpanId> = (0..10_000).map(|_| SpanId::random(&clock)).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        let (all, common) = ids.iter().fold((0, u64::MAX), |(or, and), id| (or | id.0, and & id.0));
        assert_eq!((all, common), (u64::MAX, 0));
    }
}
