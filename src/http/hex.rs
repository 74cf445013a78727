//! Bytes as lower-case hexadecimal digits, for every request: without the formatter's machinery.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Gives two digits for each byte, some at a time.
pub(crate) fn each_hex(bytes: &[u8], mut put: impl FnMut(&[u8])) {
    for some in bytes.chunks(16) {
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(some) {
            pair.copy_from_slice(&[byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
        }
        put(&digits[..2 * some.len()]);
    }
}

/// Appends two digits for each byte.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    // Digits are ASCII.
    each_hex(bytes, |digits| text.push_str(std::str::from_utf8(digits).unwrap_or_default()));
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
        let (mut text, bytes) = (String::new(), [0xa5; 33]);
        push_hex(&mut text, &bytes);
        assert_eq!(text, "a5".repeat(33));
    }
}
