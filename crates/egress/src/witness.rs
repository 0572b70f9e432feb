//! What the kernel tells of sandboxes: packets that it has refused by address, and programs that were started.
//!
//! Nothing depends on it: what is lost is not told, and a guest that makes much of it is heard now and then.

use std::fs;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use soulbox_linux::told::messages;
use soulbox_net::told::refused_packets;
use soulbox_types::SlotIndex;
use tokio::net::UnixDatagram;

use crate::gate::Gate;

/// More than the kernel tells at once.
const BUFFER: usize = 64 * 1024;
/// Programs that are looked at in a second, of the whole host: each takes two files of `/proc`.
const LOOKS_PER_SECOND: u32 = 200;
/// As much of a command line as is read.
const COMMAND_BYTES: u64 = 512;

/// Has the gate told of packets that were refused, until the socket ends.
pub async fn hear_refusals(gate: Arc<Gate>, socket: OwnedFd) {
    let told = |heard: &[u8]| refused_packets(heard).for_each(|packet| gate.was_refused(&packet));
    if let Err(error) = each(socket, told).await {
        tracing::error!(%error, "what is refused by address is not told any more");
    }
}

/// Has the gate told of programs that were started, until the socket ends.
pub async fn hear_starts(gate: Arc<Gate>, socket: OwnedFd) {
    let mut looks = Looks::new(Instant::now());
    let told = |heard: &[u8]| {
        for pid in started(heard) {
            if !looks.may(Instant::now()) {
                continue;
            }
            // Gone, or of somebody else.
            if let Some((address, command)) = look(pid) {
                gate.was_started(address, &command);
            }
        }
    };
    if let Err(error) = each(socket, told).await {
        tracing::error!(%error, "programs that start in sandboxes are not told any more");
    }
}

async fn each(socket: OwnedFd, mut told: impl FnMut(&[u8])) -> io::Result<()> {
    // To the runtime, sockets of whole messages are all alike.
    let socket = std::os::unix::net::UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(length) => told(buffer.get(..length).unwrap_or_default()),
            // Too much at once: the rest goes on.
            Err(error) if error.raw_os_error() == Some(NO_BUFFER_SPACE) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `ENOBUFS`, for which there is no kind.
const NO_BUFFER_SPACE: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

/// The processes that have begun to run a program (`struct proc_event` of `linux/cn_proc.h`, behind a `cn_msg`).
fn started(heard: &[u8]) -> impl Iterator<Item = u32> {
    const EXECUTED: u32 = 2;
    const WHAT: usize = 20;
    const GROUP_OF_THREADS: usize = WHAT + 20;
    messages(heard).filter_map(|(_, body)| {
        let number = |at: usize| -> Option<u32> {
            let bytes = body.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        (number(WHAT)? == EXECUTED).then(|| number(GROUP_OF_THREADS))?
    })
}

/// The sandbox's address, and what the process was started as. Whose it is says its user: each slot has a range of its own.
fn look(pid: u32) -> Option<(Ipv4Addr, String)> {
    let place = format!("/proc/{pid}");
    let user = fs::metadata(&place).ok()?.uid();
    let slot = SlotIndex::of_user(user)?;
    let mut text = Vec::new();
    let file = fs::File::open(format!("{place}/cmdline")).ok()?;
    file.take(COMMAND_BYTES).read_to_end(&mut text).ok()?;
    Some((slot.address(), command(&text)?))
}

/// Arguments behind each other, as people write them; `None` of a process that has none any more.
fn command(text: &[u8]) -> Option<String> {
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let words = text.split(|byte| *byte == 0);
    let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
    let line = words.collect::<Vec<_>>().join(" ");
    let line = line.replace(|c: char| c.is_control(), " ");
    (!line.is_empty()).then_some(line)
}

/// How many more programs may be looked at in this second.
#[derive(Debug)]
struct Looks {
    since: Instant,
    used: u32,
}

impl Looks {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            used: 0,
        }
    }

    fn may(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.used += 1;
        self.used <= LOOKS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it.
    fn event(what: u32, thread: u32, process: u32) -> Vec<u8> {
        let mut body = vec![0; 20];
        for number in [what, 0, 0, 0, thread, process] {
            body.extend(u32::to_ne_bytes(number));
        }
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend([3, 0]);
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn only_programs_that_begin() {
        let bytes = [event(2, 7, 7), event(1, 8, 8), event(2, 10, 9)].concat();
        assert_eq!(started(&bytes).collect::<Vec<_>>(), [7, 9]);
        for end in 0..event(2, 7, 7).len() {
            assert_eq!(started(&bytes[..end]).count(), 0);
        }
    }

    #[test]
    fn command_lines() {
        assert_eq!(
            command(b"/bin/sh\0-c\0echo a\nb\0").as_deref(),
            Some("/bin/sh -c echo a b")
        );
        assert_eq!(command(b"cut\0off").as_deref(), Some("cut off"));
        assert_eq!(command(b"\xff\0").as_deref(), Some("\u{fffd}"));
        assert_eq!(command(b""), None);
    }

    #[test]
    fn a_storm_of_programs_is_looked_at_now_and_then() {
        let begin = Instant::now();
        let mut looks = Looks::new(begin);
        let looked = (0..1000).filter(|_| looks.may(begin)).count();
        assert_eq!(looked, usize::try_from(LOOKS_PER_SECOND).unwrap());
        assert!(looks.may(begin + Duration::from_secs(1)));
    }
}
