//! What is changed in the images of a checkpoint, so that the restorer takes the namespaces it stands in for the sandbox's.
//!
//! CRIU would make every namespace and mount of a sandbox itself, with the rights of a root that a sandbox does not have.
//! Ours are made by the jail. The images are told that they are the restorer's own, but for those of processes and of
//! queues, which only CRIU can fill; and files and threads are told nothing of mounts and cgroups of the time before.
//!
//! An image is a magic number of one or two words and then messages, each behind its length; the fields are those of
//! CRIU 4.2 (`images/*.proto`).

use std::fs;
use std::io;
use std::path::Path;

/// `inventory_entry.root_ids`, a `task_kobj_ids_entry`.
const ROOT_IDS: u64 = 3;
/// `task_kobj_ids_entry`: from `pid_ns_id` to `time_ns_id`.
const NAMESPACES: std::ops::RangeInclusive<u64> = 5..=12;
const PID: u64 = 5;
const IPC: u64 = 7;
/// `file_entry.reg` and its `mnt_id`.
const REGULAR: (u64, u64) = (3, 7);
/// `file_entry.reg` and its `size`: files of volumes change meanwhile, others do not.
const REGULAR_SIZE: (u64, u64) = (3, 8);
/// `file_entry.usk` and its `mnt_id`.
const UNIX_SOCKET: (u64, u64) = (16, 17);
/// `core_entry.thread_core` and its `cg_set`.
const THREAD: (u64, u64) = (5, 16);

/// One field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    Eight([u8; 8]),
    Four([u8; 4]),
}

type Message = Vec<Field>;

/// Changes the images in a directory.
///
/// # Errors
/// When they are not what CRIU 4.2 writes.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    let ids = fs::read(directory.join("ids-1.img"))?;
    let ids = split(&ids, 8)?.1;
    let task = ids.first().ok_or_else(odd)?;
    change(&directory.join("inventory.img"), 4, |inventory| {
        own_namespaces(inventory, task)
    })?;
    change(&directory.join("files.img"), 8, |file| {
        without(file, REGULAR)?;
        without(file, REGULAR_SIZE)?;
        without(file, UNIX_SOCKET)
    })?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        if name.starts_with("core-") {
            change(&entry.path(), 8, |core| without(core, THREAD))?;
        }
    }
    Ok(())
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an image of CRIU 4.2")
}

/// The restorer's namespaces are those of the first process, but for the two that it makes.
fn own_namespaces(inventory: &mut Message, task: &Message) -> io::Result<()> {
    let root = inventory.iter_mut().find(|field| field.number == ROOT_IDS);
    let Some(Value::Bytes(bytes)) = root.map(|field| &mut field.value) else {
        return Err(odd());
    };
    let mut ids = parse(bytes)?;
    for number in NAMESPACES {
        let Some(own) = task.iter().find(|field| field.number == number) else {
            continue;
        };
        let there = ids.iter_mut().find(|field| field.number == number);
        let value = match (number, &there) {
            (PID | IPC, Some(field)) if field.value != own.value => continue,
            (PID | IPC, _) => return Err(odd()),
            _ => own.value.clone(),
        };
        match there {
            Some(field) => field.value = value,
            None => ids.push(Field { number, value }),
        }
    }
    *bytes = print(&ids);
    Ok(())
}

/// Takes one field out of a message within a message.
fn without(message: &mut Message, (outer, inner): (u64, u64)) -> io::Result<()> {
    for field in message.iter_mut().filter(|field| field.number == outer) {
        if let Value::Bytes(bytes) = &mut field.value {
            let mut fields = parse(bytes)?;
            fields.retain(|field| field.number != inner);
            *bytes = print(&fields);
        }
    }
    Ok(())
}

fn change(
    path: &Path,
    header: usize,
    mut work: impl FnMut(&mut Message) -> io::Result<()>,
) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let (head, mut messages) = split(&bytes, header)?;
    messages.iter_mut().try_for_each(&mut work)?;
    let mut changed = head.to_vec();
    for message in &messages {
        let body = print(message);
        let length = u32::try_from(body.len()).map_err(|_| odd())?;
        changed.extend(length.to_le_bytes());
        changed.extend(body);
    }
    fs::write(path, changed)
}

/// What is before the messages, and the messages.
fn split(bytes: &[u8], header: usize) -> io::Result<(&[u8], Vec<Message>)> {
    let (head, mut rest) = bytes.split_at_checked(header).ok_or_else(odd)?;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(odd)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| odd())?;
        let (message, after) = after.split_at_checked(length).ok_or_else(odd)?;
        messages.push(parse(message)?);
        rest = after;
    }
    Ok((head, messages))
}

fn parse(mut bytes: &[u8]) -> io::Result<Message> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Eight(chunk(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| odd())?;
                let (body, rest) = bytes.split_at_checked(length).ok_or_else(odd)?;
                bytes = rest;
                Value::Bytes(body.to_vec())
            }
            5 => Value::Four(chunk(&mut bytes)?),
            _ => return Err(odd()),
        };
        let number = key >> 3;
        fields.push(Field { number, value });
    }
    Ok(fields)
}

fn chunk<const N: usize>(bytes: &mut &[u8]) -> io::Result<[u8; N]> {
    let (chunk, rest) = bytes.split_first_chunk::<N>().ok_or_else(odd)?;
    *bytes = rest;
    Ok(*chunk)
}

fn varint(bytes: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(odd)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(odd())
}

fn print(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in message {
        let kind = match field.value {
            Value::Number(_) => 0,
            Value::Eight(_) => 1,
            Value::Bytes(_) => 2,
            Value::Four(_) => 5,
        };
        put(field.number << 3 | kind, &mut bytes);
        match &field.value {
            Value::Number(number) => put(*number, &mut bytes),
            Value::Eight(eight) => bytes.extend(eight),
            Value::Four(four) => bytes.extend(four),
            Value::Bytes(inner) => {
                put(inner.len() as u64, &mut bytes);
                bytes.extend(inner);
            }
        }
    }
    bytes
}

fn put(mut value: u64, bytes: &mut Vec<u8>) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64, value: u64) -> Field {
        let value = Value::Number(value);
        Field { number, value }
    }

    fn inner(number: u64, fields: &Message) -> Field {
        let value = Value::Bytes(print(fields));
        Field { number, value }
    }

    fn image(path: &Path, header: &[u8], messages: &[Message]) {
        let mut bytes = header.to_vec();
        for message in messages {
            let body = print(message);
            bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
            bytes.extend(body);
        }
        fs::write(path, bytes).unwrap();
    }

    fn read(path: &Path, header: usize) -> Vec<Message> {
        split(&fs::read(path).unwrap(), header).unwrap().1
    }

    #[test]
    fn namespaces_become_the_restorers_but_for_processes_and_queues() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let task: Message = (5..=12).map(|field| number(field, field + 10)).collect();
        image(&at("ids-1.img"), b"magic...", &[task]);
        let root: Message = (5..=11).map(|field| number(field, field)).collect();
        let inventory = vec![number(1, 2), inner(ROOT_IDS, &root), number(4, 1 << 40)];
        image(&at("inventory.img"), b"head", &[inventory]);
        let regular = vec![number(1, 7), number(7, 193), number(8, 5), number(9, 3)];
        let socket = vec![number(1, 8), number(17, 193)];
        let files = [vec![inner(3, &regular)], vec![inner(16, &socket)]];
        image(&at("files.img"), b"magic...", &files);
        let thread = vec![number(1, 5), number(16, 1)];
        image(&at("core-1.img"), b"magic...", &[vec![inner(5, &thread)]]);
        prepare(directory.path()).unwrap();

        let inventory = read(&at("inventory.img"), 4).remove(0);
        let expected: Message = [
            (5, 5),
            (6, 16),
            (7, 7),
            (8, 18),
            (9, 19),
            (10, 20),
            (11, 21),
        ]
        .map(|(field, value)| number(field, value))
        .into_iter()
        .chain([number(12, 22)])
        .collect();
        assert_eq!(inventory[1], inner(ROOT_IDS, &expected));
        assert_eq!(inventory[2], number(4, 1 << 40));
        let files = read(&at("files.img"), 8);
        assert_eq!(files[0], [inner(3, &vec![number(1, 7), number(9, 3)])]);
        assert_eq!(files[1], [inner(16, &vec![number(1, 8)])]);
        let core = read(&at("core-1.img"), 8).remove(0);
        assert_eq!(core, [inner(5, &vec![number(1, 5)])]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for bytes in [
            &b"he"[..],
            b"head\x05\0\0\0ab",
            b"head\x01\0\0\0\x07",
            b"head\x02\0\0\0\x08\x80",
        ] {
            assert!(split(bytes, 4).is_err(), "{bytes:?}");
        }
    }
}
