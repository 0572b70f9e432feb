//! Bytes between two TCP connections, as they are.
//!
//! The first ones are copied. A direction that goes on gets a pipe, through which the kernel moves the pages of one
//! connection to the other (splice(2)): this process then touches none of them. Most connections say little and need no
//! pipe; where none can be had, copying goes on.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What is copied at once.
const PIECE_BYTES: usize = 16 * 1024;
/// A direction that has carried more gets a pipe.
const COPIED_BYTES: u64 = 256 * 1024;
/// What a pipe may hold; more is for root only (pipe(7), `pipe-max-size`).
const PIPE_BYTES: usize = 1024 * 1024;

/// Carries until both directions have ended; how many bytes, from one and from the other.
///
/// # Errors
/// When one of the two breaks: then both are to be closed.
pub(crate) async fn relay(one: &TcpStream, other: &TcpStream) -> io::Result<(u64, u64)> {
    tokio::try_join!(carry(one, other), carry(other, one))
}

/// One direction, up to its end, which the receiver is told.
async fn carry(from: &TcpStream, to: &TcpStream) -> io::Result<u64> {
    let (mut carried, ended) = copy(from, to, COPIED_BYTES).await?;
    if !ended {
        carried += match pipe() {
            Ok(pipe) => move_all(from, to, &pipe).await?,
            Err(error) => {
                tracing::debug!(%error, "no pipe for a connection; its bytes are copied");
                copy(from, to, u64::MAX).await?.0
            }
        };
    }
    match rustix::net::shutdown(to, Shutdown::Write) {
        // It has gone away by itself meanwhile.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(carried),
        Err(error) => Err(error.into()),
    }
}

/// Copies until this many bytes are carried, or to the end; whether it was the end.
async fn copy(from: &TcpStream, to: &TcpStream, at_most: u64) -> io::Result<(u64, bool)> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut carried = 0_u64;
    while carried < at_most {
        let count = from
            .async_io(Interest::READABLE, || from.try_read(&mut buffer))
            .await?;
        if count == 0 {
            return Ok((carried, true));
        }
        let mut left = buffer.get(..count).unwrap_or_default();
        while !left.is_empty() {
            let sent = to
                .async_io(Interest::WRITABLE, || to.try_write(left))
                .await?;
            left = left.get(sent..).unwrap_or_default();
        }
        carried = carried.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok((carried, false))
}

struct Pipe {
    end: OwnedFd,
    beginning: OwnedFd,
}

fn pipe() -> io::Result<Pipe> {
    let (end, beginning) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    if let Err(error) = fcntl_setpipe_size(&beginning, PIPE_BYTES) {
        // A user may have so many pages in all pipes. It works with less.
        tracing::debug!(%error, "a pipe stays small");
    }
    Ok(Pipe { end, beginning })
}

/// Moves through the pipe to the end. The pipe is empty before it is filled: so "try again" is about the connection.
async fn move_all(from: &TcpStream, to: &TcpStream, pipe: &Pipe) -> io::Result<u64> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let mut carried = 0_u64;
    loop {
        let fill = || {
            splice(from.as_fd(), None, &pipe.beginning, None, PIPE_BYTES, flags)
                .map_err(io::Error::from)
        };
        let mut left = from.async_io(Interest::READABLE, fill).await?;
        if left == 0 {
            return Ok(carried);
        }
        carried = carried.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        while left > 0 {
            let drain =
                || splice(&pipe.end, None, to.as_fd(), None, left, flags).map_err(io::Error::from);
            let sent = to.async_io(Interest::WRITABLE, drain).await?;
            left = left.saturating_sub(sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    /// A client and a server with a relay between them, and what that says in the end.
    async fn between() -> (
        TcpStream,
        TcpStream,
        tokio::task::JoinHandle<io::Result<(u64, u64)>>,
    ) {
        let ((client, one), (other, server)) = (pair().await, pair().await);
        let relayed = tokio::spawn(async move { relay(&one, &other).await });
        (client, server, relayed)
    }

    fn bytes(count: usize) -> Vec<u8> {
        let numbers = (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]);
        numbers.take(count).collect()
    }

    #[tokio::test]
    async fn everything_arrives_in_order_both_ways_at_once() {
        let (mut client, mut server, relayed) = between().await;
        let (up, down) = (bytes(9_000_001), bytes(5_000_003));
        let (sent_up, sent_down) = (up.clone(), down.clone());
        let (mut client_in, mut client_out) = client.split();
        let (mut server_in, mut server_out) = server.split();
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        let all = async {
            tokio::join!(
                async {
                    client_out.write_all(&sent_up).await.unwrap();
                    client_out.shutdown().await.unwrap();
                },
                async {
                    server_out.write_all(&sent_down).await.unwrap();
                    server_out.shutdown().await.unwrap();
                },
                async { client_in.read_to_end(&mut got_down).await.unwrap() },
                async { server_in.read_to_end(&mut got_up).await.unwrap() },
            )
        };
        timeout(SOON, all).await.unwrap();
        assert!(got_up == up && got_down == down);
        let counts = timeout(SOON, relayed).await.unwrap().unwrap().unwrap();
        assert_eq!(counts, (9_000_001, 5_000_003));
    }

    #[tokio::test]
    async fn one_end_may_go_on_when_the_other_has_said_all() {
        let (mut client, mut server, relayed) = between().await;
        client.shutdown().await.unwrap();
        let mut said = Vec::new();
        timeout(SOON, server.read_to_end(&mut said))
            .await
            .unwrap()
            .unwrap();
        assert!(said.is_empty());
        // A byte at a time, also behind the change from copying to moving.
        server.write_all(&bytes(300_000)).await.unwrap();
        let mut got = vec![0; 300_000];
        timeout(SOON, client.read_exact(&mut got))
            .await
            .unwrap()
            .unwrap();
        for byte in 0..5 {
            server.write_all(&[byte]).await.unwrap();
            let came = timeout(SOON, client.read_u8()).await.unwrap().unwrap();
            assert_eq!(came, byte);
        }
        drop(server);
        let counts = timeout(SOON, relayed).await.unwrap().unwrap().unwrap();
        assert_eq!(counts, (0, 300_005));
    }

    #[tokio::test]
    async fn a_reset_ends_both() {
        let (mut client, server, relayed) = between().await;
        client.write_all(&bytes(1_000)).await.unwrap();
        rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        drop(server);
        let ended = timeout(SOON, relayed).await.unwrap().unwrap();
        assert!(ended.is_err(), "{ended:?}");
        let mut rest = Vec::new();
        // Reset or end: what counts is that it is told.
        drop(timeout(SOON, client.read_to_end(&mut rest)).await.unwrap());
    }
}
