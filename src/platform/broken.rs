//! Finds its way through JSON that is damaged somewhere: by strings, brackets and commas alone, and where these are damaged
//! too, by the next record that is whole.

use std::borrow::Cow;
use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::campaign::{FIELDS, MOST_RECORD_BYTES, read_id};
use super::wire::Text;

/// Stands before the bytes, in base64, of a record that is no text which Postgres can store.
pub const BASE64: &str = "base64:";
/// Bytes that may be looked at for each byte of a page, beyond which its structure is given up: ordinary damage takes two or
/// three.
pub(crate) const LOOKS: usize = 16;
pub(crate) const LOOKS_ANYWAY: usize = 4 << 20;
/// The largest element that is looked for by its own structure.
const MOST_ELEMENT: usize = 2 * MOST_RECORD_BYTES;
/// A record shows at least this many fields of the contract, `id` among them; what is nested in a record does not.
const TELLING_FIELDS: usize = 4;

/// A record of a page that is no JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its place on the page, from 1.
    pub place: usize,
    /// Its id, where that can still be read.
    pub id: Option<String>,
    /// What is wrong with it.
    pub fault: String,
    /// Its bytes: as they are when they are a text, else in base64 behind [`BASE64`].
    pub payload: String,
}

impl Broken {
    pub(super) fn new(place: usize, bytes: &[u8]) -> Self {
        let fault = match serde_json::from_slice::<&RawValue>(bytes) {
            // Syntax errors quote nothing.
            Err(error) => error.to_string(),
            Ok(_) => "no comma behind it".into(),
        };
        Self { place, id: id(bytes), fault, payload: payload(bytes) }
    }
}

fn payload(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') && !text.starts_with(BASE64) => text.to_owned(),
        _ => [BASE64, &STANDARD.encode(bytes)].concat(),
    }
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

/// The id of a damaged record: of the fields that can be told apart, the one of that name.
fn id(record: &[u8]) -> Option<String> {
    let mut scanner = Scanner::new(record);
    let mut id = None;
    if !scanner.enter(b'{') {
        return None;
    }
    while let Some(name) = scanner.member() {
        let Some(value) = scanner.value() else { break };
        if name == "id" {
            let raw = serde_json::from_slice::<&RawValue>(value).ok();
            id = raw.and_then(|raw| read_id(Some(raw)).ok());
        }
    }
    id
}

/// A place in bytes that should be JSON.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Nothing was passed yet since the last bracket was entered.
    first: bool,
    /// How many bytes may still be looked at.
    looks: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let looks = bytes.len().saturating_mul(LOOKS).saturating_add(LOOKS_ANYWAY);
        Self { bytes, at: 0, first: true, looks }
    }

    /// The byte that comes next, from 0.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Passes this bracket, if it is next.
    pub fn enter(&mut self, bracket: u8) -> bool {
        self.first = true;
        self.pass(bracket)
    }

    /// Passes a closing brace, if it is next, be it behind a comma too many.
    pub fn leave_object(&mut self) -> bool {
        self.leave(b'}', |_| true)
    }

    /// Passes a closing bracket, if it is next and ends the list of records.
    pub fn leave_records(&mut self) -> bool {
        self.leave(b']', |scanner| scanner.is_tail(scanner.at))
    }

    fn leave(&mut self, bracket: u8, is_end: impl FnOnce(&mut Self) -> bool) -> bool {
        let begun = self.at;
        if !self.first {
            self.pass(b',');
        }
        if self.peek() == Some(bracket) && is_end(self) {
            self.first = false;
            return self.pass(bracket);
        }
        self.at = begun;
        false
    }

    pub fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// The name of an object's next member; the value comes next.
    pub fn member(&mut self) -> Option<Cow<'a, str>> {
        let begun = (self.at, self.first);
        let name = self.comma().then(|| self.text()).flatten();
        if name.is_some() && self.pass(b':') {
            return name;
        }
        (self.at, self.first) = begun;
        None
    }

    /// A member's value, whether it is JSON or not.
    pub fn value(&mut self) -> Option<&'a [u8]> {
        self.peek();
        let from = self.at;
        self.at = self.end_of(from, self.bytes.len())?;
        Some(self.bytes[from..self.at].trim_ascii_end())
    }

    /// A list's next element, if it is JSON and followed by what must follow.
    pub fn element(&mut self) -> Option<&'a RawValue> {
        let begun = (self.at, self.first);
        if self.comma() {
            self.peek();
            let end = self.end_of(self.at, self.bytes.len());
            let end = end.filter(|end| matches!(self.bytes[*end], b',' | b']'));
            let element = end.and_then(|end| serde_json::from_slice(&self.bytes[self.at..end]).ok());
            if let (Some(end), Some(element)) = (end, element) {
                self.at = end;
                return Some(element);
            }
        }
        (self.at, self.first) = begun;
        None
    }

    /// A list's next element, which is no JSON: up to the next one, or to the list's end.
    pub fn broken_element(&mut self) -> Option<&'a [u8]> {
        self.comma();
        self.peek();
        let from = self.at;
        let end = match self.end_of(from, from.saturating_add(MOST_ELEMENT)) {
            Some(end) if self.goes_on(end) => end,
            // Its own structure is damaged.
            _ => self.next_whole(from)?,
        };
        self.at = end;
        Some(self.bytes[from..end].trim_ascii_end())
    }

    /// Whether what stands here may follow an element: another record, or the list's end and what belongs behind it.
    fn goes_on(&mut self, end: usize) -> bool {
        match self.bytes.get(end) {
            Some(b',') => self.record(end + 1).is_some(),
            Some(b']') => self.is_tail(end),
            _ => false,
        }
    }

    /// Where the list goes on: before the comma of the next whole record, or at the list's end.
    fn next_whole(&mut self, from: usize) -> Option<usize> {
        let (bytes, mut comma) = (self.bytes, None);
        for (at, byte) in bytes.iter().enumerate().skip(from) {
            match byte {
                b',' => comma = Some(at),
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b'{' if comma.is_some() => {
                    if self.record(at).is_some_and(is_json) {
                        return comma;
                    }
                    comma = None;
                }
                b']' if self.is_tail(at) => return Some(at),
                _ => comma = None,
            }
            self.looks = self.looks.checked_sub(1)?;
        }
        None
    }

    /// What stands here, if it is a record of a listing and not an object within one; it need not be JSON.
    fn record(&mut self, at: usize) -> Option<&'a [u8]> {
        let end = self.end_of(at, at.saturating_add(MOST_ELEMENT))?;
        let record = self.bytes[at..end].trim_ascii();
        let mut fields = Scanner::new(record);
        let mut known: HashSet<&str> = HashSet::new();
        fields.enter(b'{');
        while let Some(name) = fields.member() {
            if fields.value().is_none() {
                break;
            }
            known.extend(FIELDS.iter().find(|field| **field == name));
        }
        self.looks = self.looks.saturating_sub(record.len());
        (fields.leave_object() && known.contains("id") && known.len() >= TELLING_FIELDS).then_some(record)
    }

    /// Whether a list may end here: behind it come the other members of the page, and then nothing more.
    fn is_tail(&mut self, at: usize) -> bool {
        let mut rest = Scanner { bytes: self.bytes, at: at + 1, first: false, looks: self.looks };
        while let Some(name) = rest.member() {
            // Fields of the pagination may be anything; other damage is that of a record.
            if rest.value().is_none_or(|value| name != "pagination" && !is_json(value)) {
                self.looks = rest.looks;
                return false;
            }
        }
        let is_tail = rest.leave_object() && rest.is_at_end();
        self.looks = rest.looks;
        is_tail
    }

    /// Where a value ends that may be damaged, by its strings and brackets alone: at a comma or closing bracket that is not its
    /// own.
    fn end_of(&mut self, from: usize, most: usize) -> Option<usize> {
        let mut open = Vec::new();
        let mut quoted = false;
        let mut at = from;
        while at < self.bytes.len().min(most) {
            self.looks = self.looks.checked_sub(1)?;
            match self.bytes[at] {
                b'"' => quoted = !quoted,
                b'\\' if quoted => at += 1,
                _ if quoted => {}
                // It stands in strings only: what is taken for one is not.
                b'\\' => return None,
                bracket @ (b'{' | b'[') => open.push(bracket),
                b',' | b'}' | b']' if open.is_empty() => return Some(at),
                bracket @ (b'}' | b']') => {
                    let other = if bracket == b'}' { b'{' } else { b'[' };
                    if open.pop() != Some(other) {
                        return None;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        None
    }

    /// A comma, except before the first.
    fn comma(&mut self) -> bool {
        std::mem::replace(&mut self.first, false) || self.pass(b',')
    }

    fn text(&mut self) -> Option<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let from = self.at;
        let mut at = from + 1;
        while *self.bytes.get(at)? != b'"' {
            self.looks = self.looks.checked_sub(1)?;
            at += if self.bytes[at] == b'\\' { 2 } else { 1 };
        }
        self.at = at + 1;
        serde_json::from_slice::<Text<'_>>(&self.bytes[from..self.at]).ok().map(|Text(text)| text)
    }

    fn pass(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }
}
