//! The files in which Java programs look for whom to trust: one with certificates of ours besides what is in it.
//!
//! Java reads neither the system's bundle nor a variable of its own without saying so on the standard error of every program.
//! There are two formats: Java's own ([`jks`]), which Debian still writes, and PKCS #12 ([`pkcs12`]) without a password, which
//! the JDKs bring since version 18. Pure functions on bytes that strangers wrote; nothing here may panic.

mod jks;
mod pkcs12;

/// The name of each entry of ours begins so, and nobody else's should.
const ALIAS: &str = "soulbox-";

/// The store with these certificates (DER) of ours, and none of ours that were in it before. `None` when it is neither format,
/// is damaged, or has another password than `changeit` or none.
#[must_use]
pub fn with_certificates(store: &[u8], certificates: &[&[u8]]) -> Option<Vec<u8>> {
    jks::with_certificates(store, certificates)
        .or_else(|| pkcs12::with_certificates(store, certificates))
}
