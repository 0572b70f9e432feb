//! From when to when a certificate is valid: the one thing that is read out of it here.
//!
//! A certificate is nested records of DER, each with a tag and a length. Validity lies at a fixed place in them (RFC 5280,
//! 4.1), so that a few lines find it; a library for all of X.509 would be a dozen crates more.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::Offset;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The life of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub not_before: SystemTime,
    /// Its last.
    pub not_after: SystemTime,
}

impl Validity {
    /// How long it lives.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.not_after
            .duration_since(self.not_before)
            .unwrap_or_default()
    }

    /// Whether it has run out.
    #[must_use]
    pub fn has_ended(&self, now: SystemTime) -> bool {
        now > self.not_after
    }
}

/// Reads it from the first certificate of a PEM text.
#[must_use]
pub fn validity(pem: &[u8]) -> Option<Validity> {
    of_der(&CertificateDer::from_pem_slice(pem).ok()?)
}

fn of_der(der: &[u8]) -> Option<Validity> {
    let (certificate, _) = take(der, SEQUENCE)?;
    let (mut fields, _) = take(certificate, SEQUENCE)?;
    if let Some((_, rest)) = take(fields, VERSION) {
        fields = rest;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        fields = take(fields, tag)?.1;
    }
    let (validity, _) = take(fields, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some(Validity {
        not_before,
        not_after,
    })
}

/// The contents of the record at the beginning, which must have this tag, and what follows it.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, short], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            let length = long
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn time(bytes: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (text, rest, century) = match take(bytes, UTC_TIME) {
        Some((text, rest)) => (text, rest, None),
        None => {
            let (text, rest) = take(bytes, GENERALIZED_TIME)?;
            let (century, text) = text.split_at_checked(2)?;
            (text, rest, Some(century))
        }
    };
    let digits = text.strip_suffix(b"Z")?;
    let pairs: Option<Vec<i8>> = digits.chunks(2).map(pair).collect();
    let &[year, month, day, hour, minute, second] = pairs?.as_slice() else {
        return None;
    };
    // Two digits are years from 1950 to 2049.
    let century = match century {
        Some(century) => i16::from(pair(century)?),
        None => 19 + i16::from(year < 50),
    };
    let year = century.checked_mul(100)? + i16::from(year);
    let moment = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let moment = Offset::UTC.to_timestamp(moment).ok()?;
    Some((moment.into(), rest))
}

fn pair(digits: &[u8]) -> Option<i8> {
    let &[tens, ones] = digits else { return None };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0');
    i8::try_from(digit(tens)? * 10 + digit(ones)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made(from: i32, to: i32) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["box.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 2, 3);
        params.not_after = date_time_ymd(to, 11, 30);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        let seconds = |year, month, day| SystemTime::from(date_time_ymd(year, month, day));
        for (from, to) in [(2026, 2027), (1999, 2051), (1951, 2049), (2050, 2999)] {
            let found = validity(made(from, to).pem().as_bytes()).unwrap();
            assert_eq!(found.not_before, seconds(from, 2, 3), "{from}");
            assert_eq!(found.not_after, seconds(to, 11, 30), "{to}");
        }
        assert_eq!(validity(b"no PEM"), None);
    }

    #[test]
    fn what_is_cut_has_none() {
        let whole = made(2026, 2027);
        let whole = whole.der();
        for end in 0..whole.len() {
            assert_eq!(of_der(&whole[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes: Vec<u8>, at: usize, byte: u8) {
            of_der(&bytes);
            let mut damaged = made(2026, 2027).der().to_vec();
            let at = at % damaged.len();
            damaged[at] = byte;
            of_der(&damaged);
        }
    }
}
