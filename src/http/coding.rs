//! Content codings of a response (RFC 9110, 8.4): the one that was asked for, by all its names, and what is said of others.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use ureq::http::HeaderValue;

/// How a body is coded, as far as that is still to be seen to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all, or in `gzip`, which the agent has decoded.
    Decoded,
    /// In gzip under another of its names: the agent knows `gzip` only, letter by letter.
    Gzip,
    /// In another one, which was not asked for.
    Other(String),
}

impl Coding {
    /// The coding of a response with this `Content-Encoding`.
    pub fn of(header: Option<&HeaderValue>) -> Self {
        let header = header.map(|header| String::from_utf8_lossy(header.as_bytes())).unwrap_or_default();
        let mut codings = header.split(',').map(str::trim);
        let mut codings = codings.by_ref().filter(|coding| {
            // Neither says anything.
            !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")
        });
        match (codings.next(), codings.next()) {
            (None, _) => Self::Decoded,
            (Some("gzip"), None) if header == "gzip" => Self::Decoded,
            (Some(coding), None)
                if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") =>
            {
                Self::Gzip
            }
            _ => Self::Other(header.into_owned()),
        }
    }

    /// Reads a body decoded, unless it is in another one.
    pub fn decoded<'a>(&self, body: impl Read + 'a) -> Box<dyn Read + 'a> {
        match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(body)),
            Self::Decoded | Self::Other(_) => Box::new(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn gzip_has_two_names_in_any_case_and_others_are_named() {
        for (header, coding) in [
            (None, Coding::Decoded),
            (Some(""), Coding::Decoded),
            (Some("Identity"), Coding::Decoded),
            (Some("gzip"), Coding::Decoded),
            (Some("GZIP"), Coding::Gzip),
            (Some("x-gzip"), Coding::Gzip),
            (Some("X-GZip"), Coding::Gzip),
            (Some("identity, gzip"), Coding::Gzip),
            (Some("br"), Coding::Other("br".into())),
            (Some("gzip, gzip"), Coding::Other("gzip, gzip".into())),
        ] {
            let header = header.map(HeaderValue::from_static);
            assert_eq!(Coding::of(header.as_ref()), coding, "{header:?}");
        }
    }

    #[test]
    fn a_body_in_gzip_is_decoded_as_it_is_read() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&[b'['; 1 << 20]).unwrap();
        let body = encoder.finish().unwrap();
        let read = |body: &[u8], most: u64| {
            let mut decoded = Vec::new();
            Coding::Gzip.decoded(body).take(most).read_to_end(&mut decoded).map(|_| decoded.len())
        };
        assert_eq!(read(&body, 2 << 20).unwrap(), 1 << 20);
        assert_eq!(read(&body, 1_000).unwrap(), 1_000);
        assert!(read(&body[..body.len() / 2], 2 << 20).is_err());
    }
}
