//! As much of the DNS wire format as a forwarder must understand: the header and the one question (RFC 1035 §4.1).
//!
//! Pure functions on bytes that strangers sent; nothing here may panic.

use std::net::{IpAddr, Ipv4Addr};

/// Length of the fixed header.
pub(crate) const HEADER_BYTES: usize = 12;
/// Most bytes of a query. Real ones stay far below; the rest is somebody trying something.
const MAX_QUERY_BYTES: usize = 4096;

/// Response codes used here.
pub(crate) const FORMERR: u8 = 1;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
pub(crate) const NOTIMP: u8 = 4;
pub(crate) const REFUSED: u8 = 5;

/// What to do with a message from a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass it on; the question ends at this offset.
    Forward { question_end: usize },
    /// Answer with this code; the question, if it can be read, ends at the offset.
    Answer { rcode: u8, question_end: usize },
    /// Not a query: no answer, lest two servers answer each other for ever.
    Ignore,
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([
        *message.get(at)?,
        *message.get(at + 1)?,
    ]))
}

/// The id of a message.
pub(crate) fn id(message: &[u8]) -> Option<u16> {
    u16_at(message, 0)
}

/// Puts another id in place.
pub(crate) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// The response code, 15 when there is none.
pub(crate) fn rcode(message: &[u8]) -> u8 {
    message.get(3).map_or(15, |flags| flags & 0x0f)
}

fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        at += length;
        // No label is longer than 63 (more is a compression pointer), no name longer than 255 (RFC 1035 §2.3.4).
        if length > 63 || at - HEADER_BYTES > 254 {
            return None;
        }
    }
    (message.len() >= at + 4).then_some(at + 4)
}

/// The name and the type that a judged query asks for. The name as it is written, `None` when a label holds a dot or no text.
pub(crate) fn question(query: &[u8], question_end: usize) -> (Option<String>, u16) {
    let kind = question_end.checked_sub(4).and_then(|at| u16_at(query, at));
    (name_at(query, HEADER_BYTES), kind.unwrap_or_default())
}

fn name_at(message: &[u8], mut at: usize) -> Option<String> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return Some(labels.join("."));
        }
        let label = message.get(at + 1..at + 1 + length)?;
        let label = std::str::from_utf8(label).ok()?;
        if length > 63 || label.contains('.') {
            return None;
        }
        labels.push(label.to_owned());
        at += 1 + length;
    }
}

/// Where a name of a record ends: it may end in a pointer (RFC 1035 §4.1.4), which is not followed.
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + length,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// The addresses that an answer tells, with the seconds that they are true for.
pub(crate) fn addresses(answer: &[u8], question_end: usize) -> Vec<(IpAddr, u32)> {
    let mut found = Vec::new();
    let mut at = question_end;
    for _ in 0..u16_at(answer, 6).unwrap_or_default() {
        let Some((next, address)) = record(answer, at) else {
            break;
        };
        found.extend(address);
        at = next;
    }
    found
}

/// The end of the record that begins here, and the address in it.
fn record(answer: &[u8], at: usize) -> Option<(usize, Option<(IpAddr, u32)>)> {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    const INTERNET: u16 = 1;
    let fixed = name_end(answer, at)?;
    let (kind, class) = (u16_at(answer, fixed)?, u16_at(answer, fixed + 2)?);
    let seconds =
        u32::from(u16_at(answer, fixed + 4)?) << 16 | u32::from(u16_at(answer, fixed + 6)?);
    let start = fixed + 10;
    let end = start + usize::from(u16_at(answer, fixed + 8)?);
    let data = answer.get(start..end)?;
    let address = match kind {
        A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    };
    let address = address.filter(|_| class == INTERNET);
    Some((end, address.map(|address| (address, seconds))))
}

/// Types of records that a resolver's client has no use for:
/// 251 to 255, zone transfers and amplification (IXFR, AXFR, MAILB, MAILA, ANY);
/// NULL (10) and private types (65280 and up, RFC 6895 §3.1), which hold any bytes and are what tunnels like best.
fn is_refused(kind: u16) -> bool {
    matches!(kind, 10 | 251..=255 | 65280..)
}

/// Judges a message from a sandbox.
pub(crate) fn judge(message: &[u8]) -> Verdict {
    const RESPONSE: u8 = 0x80;
    let (Some(flags), Some(questions)) = (message.get(2), u16_at(message, 4)) else {
        return Verdict::Ignore;
    };
    if message.len() < HEADER_BYTES || message.len() > MAX_QUERY_BYTES || flags & RESPONSE != 0 {
        return Verdict::Ignore;
    }
    let answer = |rcode, question_end| Verdict::Answer {
        rcode,
        question_end,
    };
    if flags & 0x78 != 0 {
        return answer(NOTIMP, HEADER_BYTES);
    }
    let (answers, authorities) = (u16_at(message, 6), u16_at(message, 8));
    let Some(end) = question_end(message)
        .filter(|_| questions == 1 && answers == Some(0) && authorities == Some(0))
    else {
        return answer(FORMERR, HEADER_BYTES);
    };
    let (kind, class) = (u16_at(message, end - 4), u16_at(message, end - 2));
    if kind.is_none_or(is_refused) || class != Some(1) {
        return answer(REFUSED, end);
    }
    Verdict::Forward { question_end: end }
}

/// An answer without records.
pub(crate) fn empty_answer(query: &[u8], question_end: usize, rcode: u8) -> Vec<u8> {
    let mut answer = query
        .get(..question_end.max(HEADER_BYTES))
        .unwrap_or_default()
        .to_vec();
    if let Some(header) = answer.get_mut(..HEADER_BYTES) {
        // Response, same opcode and RD; recursion is available.
        header[2] = 0x80 | (header[2] & 0x79);
        header[3] = 0x80 | (rcode & 0x0f);
        header[4..12].fill(0);
        header[5] = u8::from(question_end > HEADER_BYTES);
    }
    answer
}

/// An answer with one address, which is true for so many seconds.
pub(crate) fn address_answer(
    query: &[u8],
    question_end: usize,
    address: Ipv4Addr,
    seconds: u32,
) -> Vec<u8> {
    let mut answer = empty_answer(query, question_end, 0);
    if let Some(records) = answer.get_mut(7) {
        *records = 1;
    }
    // The name of the question, A, IN (RFC 1035 §4.1.3, §4.1.4).
    answer.extend([0xc0, 12, 0, 1, 0, 1]);
    answer.extend(seconds.to_be_bytes());
    answer.extend([0, 4]);
    answer.extend(address.octets());
    answer
}

/// Whether `answer` is a response to exactly this query: same id, same question.
pub(crate) fn answers(answer: &[u8], query: &[u8], question_end: usize) -> bool {
    answer.len() >= question_end
        && id(answer) == id(query)
        && answer[2] & 0x80 != 0
        && u16_at(answer, 4) == Some(1)
        && answer[HEADER_BYTES..question_end]
            .eq_ignore_ascii_case(&query[HEADER_BYTES..question_end])
}

#[cfg(test)]
pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let good = query("example.com", 1);
        assert_eq!(
            judge(&good),
            Verdict::Forward {
                question_end: good.len()
            }
        );
        let mut with_edns = good.clone();
        with_edns[11] = 1;
        with_edns.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            judge(&with_edns),
            Verdict::Forward {
                question_end: good.len()
            }
        );
        for kind in [10, 251, 252, 255, 65280, 65399, 65535] {
            assert!(matches!(
                judge(&query("example.com", kind)),
                Verdict::Answer { rcode: REFUSED, .. }
            ));
        }
        for kind in [1, 5, 12, 15, 16, 28, 33, 64, 65, 250, 256, 257, 65279] {
            let verdict = judge(&query("example.com", kind));
            assert!(matches!(verdict, Verdict::Forward { .. }), "{kind}");
        }
        let change = |at: usize, value: u8| {
            let mut message = good.clone();
            message[at] = value;
            judge(&message)
        };
        assert_eq!(change(2, 0x81), Verdict::Ignore);
        assert!(matches!(
            change(2, 0x11),
            Verdict::Answer { rcode: NOTIMP, .. }
        ));
        assert!(matches!(
            change(5, 0),
            Verdict::Answer { rcode: FORMERR, .. }
        ));
        assert!(matches!(
            change(5, 2),
            Verdict::Answer { rcode: FORMERR, .. }
        ));
        assert!(matches!(
            change(7, 1),
            Verdict::Answer { rcode: FORMERR, .. }
        ));
        assert!(
            matches!(change(12, 0xc0), Verdict::Answer { rcode: FORMERR, .. }),
            "compressed question"
        );
        assert!(
            matches!(
                change(good.len() - 1, 3),
                Verdict::Answer { rcode: REFUSED, .. }
            ),
            "class CHAOS"
        );
        assert!(matches!(
            judge(&query(&"abcdefgh.".repeat(40), 1)),
            Verdict::Answer { rcode: FORMERR, .. }
        ));
        for n in 0..good.len() {
            assert!(
                !matches!(judge(&good[..n]), Verdict::Forward { .. }),
                "{n} bytes"
            );
        }
        assert_eq!(judge(&vec![0; 5000]), Verdict::Ignore);
    }

    #[test]
    fn only_the_right_answer_counts() {
        let query_ = query("Example.com", 1);
        let end = query_.len();
        let mut answer = query_.clone();
        assert!(!answers(&answer, &query_, end), "a query is no answer");
        answer[2] |= 0x80;
        assert!(answers(&answer, &query_, end));
        answer[13] = b'e';
        assert!(answers(&answer, &query_, end), "names know no case");
        answer[0] ^= 1;
        assert!(!answers(&answer, &query_, end));
        let mut other = query("exbmple.com", 1);
        other[2] |= 0x80;
        assert!(!answers(&other, &query_, end));
        assert!(!answers(&answer[..end - 1], &query_, end));
    }

    #[test]
    fn empty_answers_are_well_formed() {
        let good = query("example.com", 1);
        let answer = empty_answer(&good, good.len(), SERVFAIL);
        assert!(answers(&answer, &good, good.len()));
        assert_eq!(
            (rcode(&answer), answer[2], answer[3]),
            (SERVFAIL, 0x81, 0x82)
        );
        let bare = empty_answer(&good, HEADER_BYTES, FORMERR);
        assert_eq!((bare.len(), bare[5]), (HEADER_BYTES, 0));
    }
}
