//! The first bytes of connections that are judged by the name that their TLS asks for.

use crate::taken::hello::{Said, read};

/// Input: what a client has sent so far, in pieces of any length: what has been decided stays decided, a name stands in what
/// was sent, and its records may be cut anywhere.
pub(crate) fn hello(data: &[u8]) {
    let whole = read(data);
    for end in 0..data.len() {
        match read(&data[..end]) {
            Said::Incomplete => {}
            decided => assert_eq!(decided, whole, "more bytes change nothing"),
        }
    }
    let Said::Hello(hello) = whole else {
        return;
    };
    if let Some(name) = &hello.name {
        assert!(name.len() < data.len());
    }
    let message: Vec<u8> = records(data).concat();
    let cut: Vec<u8> = message
        .chunks(7)
        .flat_map(|part| [&[22, 3, 1, 0, part.len().to_be_bytes()[7]][..], part].concat())
        .collect();
    assert_eq!(read(&cut), Said::Hello(hello), "however it is cut");
}

/// What is in the records, the last of which may be cut off.
fn records(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((head, behind)) = rest.split_at_checked(5) {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let (record, next) = behind.split_at(length.min(behind.len()));
        found.push(record);
        rest = next;
    }
    found
}
