//! Java's own format: a number of entries, and behind them a digest of the password, a phrase and everything before it.
//! Numbers are big-endian; texts have two bytes of length. The JDK's `sun.security.provider.JavaKeyStore` is its definition.

use sha1::{Digest as _, Sha1};

use crate::ALIAS;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const PRIVATE_KEY: u32 = 1;
const CERTIFICATE: u32 = 2;
const DIGEST_BYTES: usize = 20;
/// The one that every JDK's store of trusted certificates has.
const PASSWORD: &str = "changeit";
const PHRASE: &[u8] = b"Mighty Aphrodite";
const X509: &str = "X.509";

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.take(4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let bytes = self.take(2)?.try_into().ok()?;
        self.take(u16::from_be_bytes(bytes).into())
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn certificate(&mut self) -> Option<()> {
        self.text()?;
        self.sized().map(drop)
    }

    /// The next entry, and its name.
    fn entry(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let whole = self.0;
        let kind = self.number()?;
        let alias = self.text()?;
        let _date = self.take(8)?;
        match kind {
            CERTIFICATE => self.certificate()?,
            PRIVATE_KEY => {
                self.sized()?;
                for _ in 0..self.number()? {
                    self.certificate()?;
                }
            }
            _ => return None,
        }
        let length = whole.len() - self.0.len();
        Some((whole.get(..length)?, alias))
    }
}

/// See [`crate::with_certificates`].
pub(crate) fn with_certificates(store: &[u8], certificates: &[&[u8]]) -> Option<Vec<u8>> {
    let (content, said) = store.split_at_checked(store.len().checked_sub(DIGEST_BYTES)?)?;
    let mut reader = Reader(content);
    if (reader.number()?, reader.number()?) != (MAGIC, VERSION) || said != digest(content) {
        return None;
    }
    let mut entries = Vec::new();
    for _ in 0..reader.number()? {
        let (entry, alias) = reader.entry()?;
        if !alias.starts_with(ALIAS.as_bytes()) {
            entries.push(entry.to_vec());
        }
    }
    if !reader.0.is_empty() {
        return None;
    }
    for (number, certificate) in certificates.iter().enumerate() {
        entries.push(entry(&format!("{ALIAS}{number}"), certificate)?);
    }
    let mut made = [MAGIC, VERSION, u32::try_from(entries.len()).ok()?]
        .map(u32::to_be_bytes)
        .concat();
    made.extend(entries.concat());
    made.extend(digest(&made));
    Some(made)
}

fn entry(alias: &str, certificate: &[u8]) -> Option<Vec<u8>> {
    let text = |text: &str| -> Option<Vec<u8>> {
        let length = u16::try_from(text.len()).ok()?;
        Some([&length.to_be_bytes()[..], text.as_bytes()].concat())
    };
    let length = u32::try_from(certificate.len()).ok()?;
    let made = [
        &CERTIFICATE.to_be_bytes()[..],
        &text(alias)?,
        // Since when it is there is nobody's business.
        &[0; 8],
        &text(X509)?,
        &length.to_be_bytes(),
        certificate,
    ];
    Some(made.concat())
}

fn digest(content: &[u8]) -> [u8; DIGEST_BYTES] {
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    Sha1::new()
        .chain_update(password)
        .chain_update(PHRASE)
        .chain_update(content)
        .finalize()
        .into()
}
