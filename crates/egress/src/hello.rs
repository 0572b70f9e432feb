//! As much of TLS as shows which name a client asks for: the ClientHello (RFC 8446 §4.1.2, RFC 6066 §3).
//!
//! Pure functions on bytes that strangers sent; nothing here may panic.

/// A ClientHello of post-quantum keys and long session tickets has some kilobytes.
pub(crate) const MOST_BYTES: usize = 32 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MOST_RECORD: usize = 16 * 1024;
const SERVER_NAME: u16 = 0;
/// Encrypted ClientHello (RFC 9849 §5), whose inner name nobody on the way can read.
const ENCRYPTED: u16 = 0xfe0d;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing yet: more is needed.
    Incomplete,
    /// It is not TLS, or breaks its rules.
    NotTls,
    /// This.
    Hello(Hello),
}

/// What matters of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The name as it is written.
    pub(crate) name: Option<String>,
    /// Whether it may hold another name that cannot be read.
    pub(crate) encrypted: bool,
}

/// A place in a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.take(bytes)?;
        Some(
            taken
                .iter()
                .fold(0, |number, byte| number << 8 | usize::from(*byte)),
        )
    }

    fn kind(&mut self) -> Option<u16> {
        self.number(2).and_then(|number| u16::try_from(number).ok())
    }

    /// Something that its length stands before, in so many bytes.
    fn sized(&mut self, bytes: usize) -> Option<Self> {
        let length = self.number(bytes)?;
        self.take(length).map(Reader)
    }
}

/// Reads the first bytes that a client has sent.
pub(crate) fn read(bytes: &[u8]) -> Said {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [] => return Said::Incomplete,
            [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, _] | [HANDSHAKE, 3, _, _] => {
                return Said::Incomplete;
            }
            [HANDSHAKE, 3, _, high, low, ..] => {
                let length = usize::from(*high) << 8 | usize::from(*low);
                if length == 0 || length > MOST_RECORD {
                    return Said::NotTls;
                }
                let there = rest.get(RECORD_HEADER..).unwrap_or_default();
                message.extend(there.get(..length.min(there.len())).unwrap_or_default());
                match whole(&message) {
                    Some(Some(hello)) => return hello_of(hello).map_or(Said::NotTls, Said::Hello),
                    Some(None) if there.len() < length => return Said::Incomplete,
                    Some(None) => rest = there.get(length..).unwrap_or_default(),
                    None => return Said::NotTls,
                }
            }
            _ => return Said::NotTls,
        }
    }
}

/// The body of the ClientHello, if all of it is there; `None` if this is another message or one that is too long.
fn whole(message: &[u8]) -> Option<Option<&[u8]>> {
    let mut reader = Reader(message);
    match reader.number(1) {
        Some(kind) if kind != usize::from(CLIENT_HELLO) => return None,
        _ => {}
    }
    let Some(length) = reader.number(3) else {
        return Some(None);
    };
    (length <= MOST_BYTES).then(|| reader.take(length))
}

fn hello_of(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader(body);
    // Version and random.
    reader.take(2 + 32)?;
    let _session = reader.sized(1)?;
    let _ciphers = reader.sized(2)?;
    let _compressions = reader.sized(1)?;
    let (mut name, mut encrypted) = (None, false);
    if reader.0.is_empty() {
        return Some(Hello { name, encrypted });
    }
    let mut extensions = reader.sized(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.kind()?;
        let data = extensions.sized(2)?;
        match kind {
            // Two of one kind are forbidden (RFC 8446 §4.2): another reader may take the other one.
            SERVER_NAME if name.is_some() => return None,
            SERVER_NAME => name = Some(server_name(data)?),
            ENCRYPTED => encrypted = true,
            _ => {}
        }
    }
    reader.0.is_empty().then_some(Hello { name, encrypted })
}

/// Exactly one name, of the one type there is.
fn server_name(mut data: Reader<'_>) -> Option<String> {
    let mut list = data.sized(2)?;
    if list.number(1)? != 0 || !data.0.is_empty() {
        return None;
    }
    let name = list.sized(2)?;
    if !list.0.is_empty() {
        return None;
    }
    std::str::from_utf8(name.0).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(length_bytes: usize, data: &[u8]) -> Vec<u8> {
        let length = data.len().to_be_bytes();
        [&length[length.len() - length_bytes..], data].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &sized(2, data)].concat()
    }

    fn sni(name: &str) -> Vec<u8> {
        let entry = [&[0][..], &sized(2, name.as_bytes())].concat();
        extension(SERVER_NAME, &sized(2, &entry))
    }

    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [
            vec![3; 34],
            sized(1, &[7; 32]),
            sized(2, &[0x13, 1]),
            sized(1, &[0]),
            sized(2, &extensions.concat()),
        ];
        [&[CLIENT_HELLO][..], &sized(3, &body.concat())].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &sized(2, part)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn hello(name: Option<&str>, encrypted: bool) -> Said {
        Said::Hello(Hello {
            name: name.map(str::to_owned),
            encrypted,
        })
    }

    #[test]
    fn names_are_found_however_the_message_is_cut() {
        let message = message(&[
            extension(10, &[1, 2]),
            sni("Example.com"),
            extension(43, &[]),
        ]);
        for size in [1, 5, 40, 4096] {
            let bytes = records(&message, size);
            assert_eq!(read(&bytes), hello(Some("Example.com"), false), "{size}");
            for n in 0..bytes.len() {
                assert_eq!(read(&bytes[..n]), Said::Incomplete, "{size} {n}");
            }
        }
    }

    #[test]
    fn without_a_name_or_with_a_hidden_one() {
        assert_eq!(read(&records(&message(&[]), 4096)), hello(None, false));
        let hidden = message(&[sni("front.example"), extension(ENCRYPTED, &[0; 64])]);
        assert_eq!(
            read(&records(&hidden, 4096)),
            hello(Some("front.example"), true)
        );
    }

    #[test]
    fn what_breaks_the_rules_is_not_tls() {
        let twice = message(&[sni("a.example"), sni("b.example")]);
        let two = [
            &[0][..],
            &sized(2, b"a.example"),
            &[0],
            &sized(2, b"b.example"),
        ]
        .concat();
        let two = message(&[extension(SERVER_NAME, &sized(2, &two))]);
        let mut tail = message(&[sni("a.example")]);
        tail.push(0);
        let length = tail.len() - 4;
        tail[1..4].copy_from_slice(&length.to_be_bytes()[5..]);
        for bad in [twice, two, tail] {
            assert_eq!(read(&records(&bad, 4096)), Said::NotTls);
        }
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-x\r\n",
            &[22, 2],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 255, 255],
            &[22, 3, 1, 0, 1, 2],
        ] {
            assert_eq!(read(bad), Said::NotTls, "{bad:?}");
        }
    }
}
