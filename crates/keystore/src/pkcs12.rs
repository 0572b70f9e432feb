//! PKCS #12 (RFC 7292) without a password: nothing in it is encrypted, and nothing vouches for the whole.

use yasna::models::ObjectIdentifier;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, DERWriter, DERWriterSeq, Tag};

use crate::ALIAS;

/// Numbers as they are written, from the left. `data` is RFC 5652 §4, the bags are RFC 7292 §4.2, the name is RFC 2985 §5.5.1.
const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
const CERTIFICATE_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 3];
const X509: &[u64] = &[1, 2, 840, 113_549, 1, 9, 22, 1];
const FRIENDLY_NAME: &[u64] = &[1, 2, 840, 113_549, 1, 9, 20];
/// By this attribute Java tells certificates that are trusted from others.
const TRUSTED_FOR: &[u64] = &[2, 16, 840, 1, 113_894, 746_875, 1, 1];
const ANY_USE: &[u64] = &[2, 5, 29, 37, 0];

/// See [`crate::with_certificates`].
pub(crate) fn with_certificates(store: &[u8], certificates: &[&[u8]]) -> Option<Vec<u8>> {
    let mut parts = yasna::parse_der(store, parts).ok()?;
    let ours: Vec<u8> = ALIAS.encode_utf16().flat_map(u16::to_be_bytes).collect();
    // Each part of ours holds nothing else.
    parts.retain(|part| !part.windows(ours.len()).any(|window| window == ours));
    if !certificates.is_empty() {
        parts.push(yasna::construct_der(|writer| part(writer, certificates)));
    }
    let safe = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for part in &parts {
                writer.next().write_der(part);
            }
        });
    });
    Some(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(3);
            data(writer.next(), &safe);
        });
    }))
}

/// The parts that the store has, whatever is in them.
fn parts(reader: BERReader<'_, '_>) -> ASN1Result<Vec<Vec<u8>>> {
    let safe = reader.read_sequence(|reader| {
        if reader.next().read_u8()? != 3 {
            return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
        }
        // With a password there is more behind it, which is an error here.
        reader.next().read_sequence(|reader| {
            if reader.next().read_oid()? != oid(DATA) {
                return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
            }
            reader
                .next()
                .read_tagged(Tag::context(0), |reader| reader.read_bytes())
        })
    })?;
    yasna::parse_der(&safe, |reader| {
        reader.collect_sequence_of(|reader| reader.read_der())
    })
}

/// A part with these certificates.
fn part(writer: DERWriter<'_>, certificates: &[&[u8]]) {
    let bags = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for (number, certificate) in certificates.iter().enumerate() {
                bag(writer, &format!("{ALIAS}{number}"), certificate);
            }
        });
    });
    data(writer, &bags);
}

fn bag(writer: &mut DERWriterSeq<'_>, alias: &str, certificate: &[u8]) {
    writer.next().write_sequence(|writer| {
        writer.next().write_oid(&oid(CERTIFICATE_BAG));
        writer.next().write_tagged(Tag::context(0), |writer| {
            writer.write_sequence(|writer| {
                writer.next().write_oid(&oid(X509));
                writer
                    .next()
                    .write_tagged(Tag::context(0), |writer| writer.write_bytes(certificate));
            });
        });
        writer.next().write_set_of(|writer| {
            attribute(writer.next(), FRIENDLY_NAME, |writer| {
                writer.write_bmp_string(alias);
            });
            attribute(writer.next(), TRUSTED_FOR, |writer| {
                writer.write_oid(&oid(ANY_USE));
            });
        });
    });
}

fn attribute(writer: DERWriter<'_>, kind: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(kind));
        writer.next().write_set_of(|writer| value(writer.next()));
    });
}

fn data(writer: DERWriter<'_>, content: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(DATA));
        writer
            .next()
            .write_tagged(Tag::context(0), |writer| writer.write_bytes(content));
    });
}

fn oid(numbers: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(numbers)
}
