//! Asking one name server, over UDP or TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::dns;

/// Largest message over UDP.
pub(crate) const MAX_UDP_BYTES: usize = 65_535;

/// How a query came, and how it is passed on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Asks one server; the answer bears the id of `query` again.
pub(crate) async fn ask(
    server: SocketAddr,
    query: &[u8],
    question_end: usize,
    transport: Transport,
) -> io::Result<Vec<u8>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|_| io::Error::other("no randomness"))?;
    let mut sent = query.to_vec();
    dns::set_id(&mut sent, u16::from_be_bytes(id));
    let mut answer = match transport {
        Transport::Udp => ask_udp(server, &sent, question_end).await?,
        Transport::Tcp => ask_tcp(server, &sent, question_end).await?,
    };
    dns::set_id(&mut answer, dns::id(query).unwrap_or_default());
    Ok(answer)
}

async fn ask_udp(server: SocketAddr, query: &[u8], question_end: usize) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected: the kernel drops what comes from anywhere else.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_UDP_BYTES];
    loop {
        let n = socket.recv(&mut buffer).await?;
        // Whatever else arrives is a forgery or late: the true answer may still come.
        if dns::answers(&buffer[..n], query, question_end) {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8], question_end: usize) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, query).await?;
    let answer = read_framed(&mut stream).await?;
    if dns::answers(&answer, query, question_end) {
        Ok(answer)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is to another question",
        ))
    }
}

pub(crate) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(crate) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    stream.write_all(&framed).await
}
