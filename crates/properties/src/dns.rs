//! The forwarder's reading of messages, from sandboxes and from servers.

use std::net::IpAddr;

use crate::taken::dns::{
    HEADER_BYTES, Verdict, address_answer, addresses, answers, empty_answer, id, judge, question,
    rcode, set_id,
};

/// Input: two bytes of a length, a query of that length, then an answer.
pub(crate) fn dns(data: &[u8]) {
    let Some((length, rest)) = data.split_at_checked(2) else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (query, answer) = rest.split_at(length.min(rest.len()));
    match judge(query) {
        Verdict::Ignore => {}
        Verdict::Answer {
            rcode: code,
            question_end,
        } => {
            assert!((HEADER_BYTES..=query.len()).contains(&question_end));
            answers_well(query, question_end, code);
        }
        Verdict::Forward { question_end } => {
            assert!((HEADER_BYTES + 5..=query.len()).contains(&question_end));
            answers_well(query, question_end, 2);
            only_its_own(query, question_end, answer);
            tells_what_is_in_it(query, question_end, answer);
            // Under another id it is the same question.
            let mut renamed = query.to_vec();
            set_id(&mut renamed, 0xbeef);
            assert_eq!(judge(&renamed), judge(query));
            assert_eq!(id(&renamed), Some(0xbeef));
        }
    }
}

/// What is answered is a response to this query, is never a query itself, and is no longer than the query.
fn answers_well(query: &[u8], question_end: usize, code: u8) {
    let made = empty_answer(query, question_end, code);
    assert!(made.len() <= query.len(), "no amplification");
    assert_eq!(rcode(&made), code);
    assert_eq!(
        judge(&made),
        Verdict::Ignore,
        "two forwarders do not talk for ever"
    );
    assert_eq!(id(&made), id(query));
    if question_end > HEADER_BYTES {
        assert!(answers(&made, query, question_end));
    }
}

/// An answer that counts has the question's bytes, but for the case of letters.
fn only_its_own(query: &[u8], question_end: usize, answer: &[u8]) {
    assert!(!answers(query, query, question_end), "a query is no answer");
    if answers(answer, query, question_end) {
        let question = &query[HEADER_BYTES..question_end];
        assert!(answer[HEADER_BYTES..question_end].eq_ignore_ascii_case(question));
        let mut forged = answer.to_vec();
        forged[0] ^= 1;
        assert!(!answers(&forged, query, question_end), "another id");
        forged[0] ^= 1;
        forged[question_end - 3] ^= 1;
        assert!(!answers(&forged, query, question_end), "another type");
    }
}

/// Each address of an answer stands in it, behind the question, and our own answers tell exactly theirs.
fn tells_what_is_in_it(query: &[u8], question_end: usize, answer: &[u8]) {
    for (address, seconds) in addresses(answer, question_end) {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let length = octets.len().to_be_bytes();
        let record = [&seconds.to_be_bytes()[..], &length[6..], &octets].concat();
        let behind = answer.get(question_end..).unwrap_or_default();
        assert!(behind.windows(record.len()).any(|window| window == record));
    }
    let own = address_answer(query, question_end, [192, 0, 2, 7].into(), 60);
    assert_eq!(addresses(&own, question_end), [([192, 0, 2, 7].into(), 60)]);
    assert!(answers(&own, query, question_end));
    assert_eq!(
        question(query, question_end),
        question(&own, question_end),
        "the question is repeated"
    );
}
