//! Bytes as lower-case hexadecimal digits, for every request: without the formatter's machinery.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends two digits for each byte.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    text.extend(digits.map(|digit| char::from(DIGITS[usize::from(digit)])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_as_the_formatter_writes_it() {
        for byte in 0..=u8::MAX {
            let mut text = String::from("-");
            push_hex(&mut text, &[byte, 0]);
            assert_eq!(text, format!("-{byte:02x}00"));
        }
    }
}
