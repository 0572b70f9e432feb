//! How fast the edge is beside a direct connection. Not a check: run with
//! `cargo test --release -p soulbox-edge --test throughput -- --ignored --nocapture`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a test program"
)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use common::{World, request};

const BLOCK: usize = 256 * 1024;

/// Reads a head; returns the bytes that came after it.
fn head(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = buffer.split_off(at + 4);
            return Some(String::from_utf8(std::mem::replace(buffer, rest)).unwrap());
        }
        let mut chunk = [0; 16 * 1024];
        let n = socket.read(&mut chunk).ok().filter(|n| *n > 0)?;
        buffer.extend_from_slice(&chunk[..n]);
    }
}

fn drain(socket: &mut TcpStream, buffer: &mut Vec<u8>, mut bytes: u64) {
    bytes -= buffer.len() as u64;
    buffer.clear();
    let mut block = vec![0; BLOCK];
    while bytes > 0 {
        let n = socket.read(&mut block).unwrap();
        assert!(n > 0, "ended early");
        bytes -= n as u64;
    }
}

/// `GET /<n>` answers n bytes; `POST` swallows its body.
fn serve(mut socket: TcpStream) {
    socket.set_nodelay(true).unwrap();
    let (mut buffer, block) = (Vec::new(), vec![0; BLOCK]);
    while let Some(head) = head(&mut socket, &mut buffer) {
        let (method, rest) = head.split_once(" /").unwrap();
        if method == "POST" {
            let length = common::header(&head, "content-length")
                .unwrap()
                .parse()
                .unwrap();
            drain(&mut socket, &mut buffer, length);
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .unwrap();
            continue;
        }
        let mut n: usize = rest.split(' ').next().unwrap().parse().unwrap();
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n").into_bytes();
        if n <= 1024 {
            answer.resize(answer.len() + n, 0);
            n = 0;
        }
        socket.write_all(&answer).unwrap();
        while n > 0 {
            let part = n.min(BLOCK);
            if socket.write_all(&block[..part]).is_err() {
                return;
            }
            n -= part;
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

fn small(address: SocketAddr, connections: usize, each: usize) -> f64 {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let (mut socket, mut buffer) = (connect(address), Vec::new());
                let text = request("GET", "/32", 8080, "User-Agent: bench\r\nAccept: */*\r\n");
                for _ in 0..each {
                    socket.write_all(text.as_bytes()).unwrap();
                    head(&mut socket, &mut buffer).unwrap();
                    drain(&mut socket, &mut buffer, 32);
                }
            });
        }
    });
    (connections * each) as f64 / begun.elapsed().as_secs_f64()
}

fn download(address: SocketAddr, bytes: u64) -> f64 {
    let (mut socket, mut buffer) = (connect(address), Vec::new());
    let begun = Instant::now();
    socket
        .write_all(request("GET", &format!("/{bytes}"), 8080, "").as_bytes())
        .unwrap();
    head(&mut socket, &mut buffer).unwrap();
    drain(&mut socket, &mut buffer, bytes);
    bytes as f64 / begun.elapsed().as_secs_f64() / 1e9
}

fn upload(address: SocketAddr, bytes: u64) -> f64 {
    let (mut socket, mut buffer) = (connect(address), Vec::new());
    let begun = Instant::now();
    socket
        .write_all(request("POST", "/", 8080, &format!("Content-Length: {bytes}\r\n")).as_bytes())
        .unwrap();
    let block = vec![0; BLOCK];
    for _ in 0..bytes / BLOCK as u64 {
        socket.write_all(&block).unwrap();
    }
    head(&mut socket, &mut buffer).unwrap();
    bytes as f64 / begun.elapsed().as_secs_f64() / 1e9
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "measures, does not check"]
fn measure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let direct = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(|| serve(socket));
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start());
    world.open_port(8080, direct);
    if std::env::var_os("EDGE_SERVE").is_some() {
        println!("direct {direct} edge {}", world.address);
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
    for (name, address) in [("direct", direct), ("edge", world.address)] {
        println!(
            "{name:7} 1 connection   {:>9.0} requests/s",
            small(address, 1, 20_000)
        );
        println!(
            "{name:7} 16 connections {:>9.0} requests/s",
            small(address, 16, 5_000)
        );
        for _ in 0..3 {
            println!(
                "{name:7} download {:.2} GB/s  upload {:.2} GB/s  peak {} KiB",
                download(address, 4 << 30),
                upload(address, 4 << 30),
                resident_kib()
            );
        }
    }
}
