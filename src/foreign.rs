//! Texts from outside: names, messages and errors that others have written, on their way to people.

use std::fmt::Write as _;

/// Whether a terminal, or whatever else shows a text, would obey this character instead of showing it: control characters
/// (C0, C1, delete), line and paragraph separators, and all that changes the direction of what follows.
#[must_use]
pub fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with every such character written out, so that a terminal shows it and obeys nothing.
#[must_use]
pub fn visible(text: &str) -> String {
    written_out(text, commands, |shown, code| write!(shown, "\\u{{{code:x}}}"))
}

/// JSON with every such character escaped, which changes nothing of its meaning: in JSON they stand within strings only, but
/// for white space below U+0020, which is kept.
#[must_use]
pub fn json(text: String) -> String {
    let obeyed = |c: char| c >= '\u{7f}' && commands(c);
    if !text.contains(obeyed) {
        return text;
    }
    // None of them is beyond U+FFFF.
    written_out(&text, obeyed, |shown, code| write!(shown, "\\u{code:04x}"))
}

/// JSON in ASCII, for a database whose encoding holds nothing else; its meaning is the same.
#[must_use]
pub fn ascii_json(text: &str) -> String {
    written_out(
        text,
        |c| !c.is_ascii(),
        |shown, code| {
            let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(shown, "\\u{unit:04x}"))
        },
    )
}

/// The text in ASCII, each other character written by its code.
#[must_use]
pub fn ascii(text: &str) -> String {
    written_out(text, |c| !c.is_ascii(), |shown, code| write!(shown, "\\u{{{code:x}}}"))
}

/// The text with each character that is `obeyed` written by its code.
fn written_out(
    text: &str,
    obeyed: impl Fn(char) -> bool,
    write: impl Fn(&mut String, u32) -> std::fmt::Result,
) -> String {
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) {
            // Writing to a String cannot fail.
            let _infallible = write(&mut shown, u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The text for a message of ours: at most `most` characters, with a blank in place of each that would be obeyed.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if commands(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_by_a_name() {
        assert_eq!(visible("a\u{1b}[31mb\r\nc\u{202e}d"), "a\\u{1b}[31mb\\u{d}\\u{a}c\\u{202e}d");
        assert_eq!(visible("Über 日本"), "Über 日本");
        let obeyed = "\0\u{7}\u{8}\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";
        assert!(obeyed.chars().all(commands));
        assert!(visible(obeyed).bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }

    #[test]
    fn json_says_the_same_and_commands_nothing() {
        let value = serde_json::json!({"\u{9b}31m": ["\u{202e}a\u{85}", "Über\t日本"]});
        let shown = json(value.to_string());
        assert!(!shown.contains(commands), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert_eq!(json("{\n\t\"a\": 1}".into()), "{\n\t\"a\": 1}");
    }

    #[test]
    fn a_message_is_one_short_line() {
        let line = one_line(&format!("a\nb\u{1b}[31m\u{202e}{}", "x".repeat(1000)), 300);
        assert!(line.starts_with("a b [31m x") && line.chars().count() == 300, "{line}");
    }
}
