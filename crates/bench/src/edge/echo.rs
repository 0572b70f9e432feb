//! A server in the sandbox's network that streams and echoes, and does nothing else: what it costs is as little as can be, so
//! that the ones before it are measured.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Free in a sandbox of ours.
pub(super) const PORT: u16 = 49_991;
/// What is streamed, in chunks of a kibibyte, as programs send that have a little to say again and again.
pub(super) const STREAM_BYTES: u64 = 8 * 1024 * 1024;
const CHUNK: usize = 1024;
/// Chunks that are written at once.
const BATCH: usize = 16;
const PIECE: usize = 16 * 1024;

/// Serves for as long as its runtime runs.
pub(super) async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).await?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Whoever asks sees that it breaks.
            tokio::spawn(async move { answer(socket).await.ok() });
        }
    });
    Ok(())
}

async fn answer(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if socket.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        if head.starts_with(b"GET /stream") {
            stream(&mut socket).await?;
            continue;
        }
        let switching =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        socket.write_all(switching.as_bytes()).await?;
        loop {
            let read = socket.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            socket
                .write_all(buffer.get(..read).unwrap_or_default())
                .await?;
        }
    }
}

async fn stream(socket: &mut TcpStream) -> io::Result<()> {
    socket
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await?;
    let chunk = format!("{CHUNK:x}\r\n{}\r\n", "x".repeat(CHUNK));
    let batch = chunk.repeat(BATCH);
    for _ in 0..STREAM_BYTES / (CHUNK * BATCH) as u64 {
        socket.write_all(batch.as_bytes()).await?;
    }
    socket.write_all(b"0\r\n\r\n").await
}
