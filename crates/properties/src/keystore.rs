//! The stores of trusted certificates that Java reads.

use soulbox_keystore::with_certificates;

/// Input: a store. One that can be added to can be again, with the same outcome, and what was added goes without a trace.
pub(crate) fn keystore(data: &[u8]) {
    let (one, other) = (&b"\x30\x03one"[..], &b"\x30\x05other"[..]);
    let Some(added) = with_certificates(data, &[one, other]) else {
        return;
    };
    let again = with_certificates(&added, &[one, other]);
    assert_eq!(again.as_ref(), Some(&added), "ours are there once");
    let without = with_certificates(data, &[]);
    assert_eq!(with_certificates(&added, &[]), without);
    assert!(without.is_some_and(|without| without.len() < added.len()));
}
