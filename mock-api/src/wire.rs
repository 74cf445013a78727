//! HTTP/1.1 as bytes: requests read without a copy, responses written into one buffer.

use std::io::Write;

use crate::server::Response;

/// Requests with a longer head, or a longer body, are refused.
const MOST_HEAD: usize = 64 << 10;
const MOST_BODY: usize = 1 << 20;

/// A request, as far as the API looks at it.
pub(crate) struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub authorization: &'a str,
    pub client: &'a str,
    pub idempotency_key: &'a str,
    pub traceparent: &'a str,
    pub body: &'a [u8],
}

/// Bytes that are no request; the status to refuse them with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub u16);

/// The lengths of the head and of the body, once the head is complete.
pub(crate) fn measure(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut length = 0;
    let mut from = 0;
    while let Some(end) = bytes[from..].iter().position(|byte| *byte == b'\n').map(|at| from + at) {
        let line = bytes[from..end].trim_ascii_end();
        if line.is_empty() {
            return Ok(Some((end + 1, length)));
        }
        if let Some(value) = value(line, "content-length") {
            length = value.parse().map_err(|_| Malformed(400))?;
            if length > MOST_BODY {
                return Err(Malformed(413));
            }
        } else if value(line, "transfer-encoding").is_some() {
            return Err(Malformed(411));
        }
        from = end + 1;
    }
    if bytes.len() > MOST_HEAD { Err(Malformed(431)) } else { Ok(None) }
}

/// The request of a complete head and body.
pub(crate) fn parse<'a>(head: &'a [u8], body: &'a [u8]) -> Result<Request<'a>, Malformed> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let first = lines.next().and_then(|line| std::str::from_utf8(line).ok()).ok_or(Malformed(400))?;
    let mut words = first.split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed(400));
    };
    let (authorization, idempotency_key, traceparent) = ("", "", "");
    let mut request =
        Request { method, path, authorization, client: "default", idempotency_key, traceparent, body };
    for line in lines {
        if let Some(found) = value(line, "authorization") {
            request.authorization = found;
        } else if let Some(found) = value(line, "x-client-id") {
            request.client = found;
        } else if let Some(found) = value(line, "idempotency-key") {
            request.idempotency_key = found;
        } else if let Some(found) = value(line, "traceparent") {
            request.traceparent = found;
        }
    }
    Ok(request)
}

/// The value on a header's line, if it is the header of this name.
fn value<'a>(line: &'a [u8], name: &str) -> Option<&'a str> {
    if line.get(name.len()) != Some(&b':') || !line[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
        return None;
    }
    std::str::from_utf8(&line[name.len() + 1..]).ok().map(str::trim)
}

/// The response, replacing what was in `out`; where its body begins.
pub(crate) fn render(response: &Response, out: &mut Vec<u8>) -> usize {
    out.clear();
    let kind = if response.html { "text/html" } else { "application/json" };
    // Writing to a Vec cannot fail.
    let _infallible = write!(
        out,
        "HTTP/1.1 {} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
        response.status,
        reason(response.status),
        response.body.len()
    );
    for (name, value) in &response.headers {
        let _infallible = write!(out, "{name}: {value}\r\n");
    }
    out.extend_from_slice(b"\r\n");
    let body = out.len();
    out.extend_from_slice(&response.body);
    body
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// A gzip stream (RFC 1952) that begins here and goes on with [`GZIP_MORE`] for as long as anybody reads: `[` without end.
pub(crate) fn gzip_begin() -> Vec<u8> {
    let mut bits = Bits::default();
    // A last block of fixed codes (RFC 1951, 3.2.6), the literal `[`, then matches of 258 bytes at distance 1.
    bits.low_first(0b011, 3);
    bits.high_first(0x30 + u32::from(b'['), 8);
    // 11 bits so far: matches of 13 bits each until a byte is full.
    while bits.held != 0 {
        bits.longest_match();
    }
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    out.extend(bits.out);
    out
}

/// 13 bytes that decompress to 2,064.
pub(crate) fn gzip_more() -> Vec<u8> {
    let mut bits = Bits::default();
    (0..8).for_each(|_| bits.longest_match());
    bits.out
}

/// Bits in the order of RFC 1951, 3.1.1.
#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    byte: u8,
    held: u32,
}

impl Bits {
    fn bit(&mut self, bit: bool) {
        self.byte |= u8::from(bit) << self.held;
        self.held += 1;
        if self.held == 8 {
            self.out.push(std::mem::take(&mut self.byte));
            self.held = 0;
        }
    }

    fn low_first(&mut self, value: u32, bits: u32) {
        (0..bits).for_each(|at| self.bit(value >> at & 1 == 1));
    }

    fn high_first(&mut self, value: u32, bits: u32) {
        (0..bits).rev().for_each(|at| self.bit(value >> at & 1 == 1));
    }

    fn longest_match(&mut self) {
        self.high_first(0b1100_0101, 8);
        self.high_first(0, 5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_measured_at_every_length() {
        let request = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-LENGTH: 3\r\n\r\nabc";
        let head = request.len() - 3;
        for cut in 0..head {
            assert_eq!(measure(&request[..cut]), Ok(None));
        }
        assert_eq!(measure(request), Ok(Some((head, 3))));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(measure(&[b'x'; (64 << 10) + 1]), Err(Malformed(431)));
        assert_eq!(measure(b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n"), Err(Malformed(413)));
        assert_eq!(measure(b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), Err(Malformed(400)));
        assert_eq!(measure(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Malformed(411)));
        for head in ["", "\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1 x\r\n\r\n", "GET /a b HTTP/1.1\r\n\r\n"]
        {
            assert!(parse(head.as_bytes(), b"").is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_match_of_the_bomb_is_thirteen_bits() {
        assert_eq!(gzip_more().len(), 13);
    }
}
