//! Against a server that plays a part: what it hears, and when it hangs up, is written in each test.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::Secret;

const STARTED: &str = r#"{"event":{"start":{"pid":7}}}"#;
const ENDED: &str = r#"{"event":{"end":{"exitCode":3,"exited":true,"status":"exit status 3"}}}"#;

/// What one connection is answered before it is cut.
enum Act {
    /// Headers besides the usual, messages, and whether the stream ends as it should.
    Stream(&'static str, Vec<String>, bool),
    /// Another status, and a body.
    Status(u16, &'static str),
    /// Nothing at all.
    HangUp,
}

fn out(stream: &str, text: &str) -> String {
    let data = data_encoding::BASE64.encode(text.as_bytes());
    format!(r#"{{"event":{{"data":{{"{stream}":"{data}"}}}}}}"#)
}

fn frame(flags: u8, message: &str) -> Vec<u8> {
    let mut frame = vec![flags];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message.as_bytes());
    frame
}

async fn play(mut socket: TcpStream, act: Act) -> String {
    let mut heard = Vec::new();
    while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 4096];
        let count = socket.read(&mut piece).await.unwrap();
        assert_ne!(count, 0, "no request");
        heard.extend(&piece[..count]);
    }
    let answer = match act {
        Act::HangUp => Vec::new(),
        Act::Status(status, body) => format!(
            "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
        Act::Stream(headers, messages, whole) => {
            let mut answer =
                format!("HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\n\r\n");
            let mut frames: Vec<_> = messages.iter().map(|text| frame(0, text)).collect();
            frames.extend(whole.then(|| frame(2, "{}")));
            let mut bytes = std::mem::take(&mut answer).into_bytes();
            for frame in frames {
                bytes.extend(format!("{:x}\r\n", frame.len()).bytes());
                bytes.extend(frame);
                bytes.extend(b"\r\n");
            }
            bytes.extend(if whole { b"0\r\n\r\n".as_slice() } else { b"" });
            bytes
        }
    };
    socket.write_all(&answer).await.unwrap();
    socket.shutdown().await.ok();
    String::from_utf8_lossy(&heard).to_ascii_lowercase()
}

/// Plays the acts one after the other, and gives what was asked in each.
async fn stage(acts: Vec<Act>) -> (Envd, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let played = tokio::spawn(async move {
        let mut heard = Vec::new();
        for act in acts {
            let (socket, _) = listener.accept().await.unwrap();
            heard.push(play(socket, act).await);
        }
        heard
    });
    let dial = Arc::new(
        move || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            Box::pin(TcpStream::connect(address))
        },
    );
    (
        Envd::through(dial, "i0", Secret::new("token".to_owned())),
        played,
    )
}

async fn all(followed: &mut Followed) -> Result<(String, Option<i32>), ClientError> {
    let (mut text, mut code) = (String::new(), None);
    while let Some(event) = followed.next().await? {
        match event {
            Event::Stdout(data) | Event::Stderr(data) | Event::Pty(data) => {
                text.push_str(std::str::from_utf8(&data).unwrap());
            }
            Event::Ended(end) => code = Some(end.exit_code),
            Event::Started { .. } => panic!("told twice"),
        }
    }
    Ok((text, code))
}

fn begins(at: &'static str) -> &'static str {
    Box::leak(format!("Soulbox-Output-At: {at}\r\nSoulbox-Process: abc\r\n").into_boxed_str())
}

#[tokio::test]
async fn a_stream_that_is_cut_is_taken_up_again() {
    let (envd, played) = stage(vec![
        Act::Stream(
            begins("0"),
            vec![STARTED.into(), out("stdout", "one "), out("stderr", "two ")],
            false,
        ),
        Act::HangUp,
        Act::Status(503, "starting"),
        Act::Stream(begins("8"), vec![STARTED.into()], false),
        Act::Stream(
            begins("8"),
            vec![STARTED.into(), out("stdout", "three"), ENDED.into()],
            true,
        ),
    ])
    .await;
    let mut followed = envd.follow(&Start::shell("x")).await.unwrap();
    assert_eq!((followed.pid(), followed.position()), (7, Some(0)));
    assert_eq!(
        all(&mut followed).await.unwrap(),
        ("one two three".to_owned(), Some(3))
    );
    assert_eq!((followed.position(), followed.take_lost()), (Some(13), 0));
    let heard = played.await.unwrap();
    assert!(heard[0].starts_with("post /process.process/start") && !heard[0].contains("soulbox-"));
    for again in &heard[1..] {
        assert!(
            again.starts_with("post /process.process/connect"),
            "{again}"
        );
        assert!(again.contains("soulbox-output-from: 8\r\n"), "{again}");
        assert!(again.contains("soulbox-process: abc\r\n"), "{again}");
    }
}

#[tokio::test]
async fn what_is_no_longer_kept_is_told() {
    let (envd, _played) = stage(vec![
        Act::Stream(begins("0"), vec![STARTED.into(), out("pty", "abc")], false),
        Act::Stream(
            begins("10"),
            vec![STARTED.into(), out("pty", "k"), ENDED.into()],
            true,
        ),
    ])
    .await;
    let mut followed = envd.follow(&Start::shell("x")).await.unwrap();
    assert_eq!(
        followed.next().await.unwrap(),
        Some(Event::Pty("abc".into()))
    );
    assert_eq!(followed.take_lost(), 0);
    assert_eq!(followed.next().await.unwrap(), Some(Event::Pty("k".into())));
    assert_eq!((followed.take_lost(), followed.take_lost()), (7, 0));
}

#[tokio::test]
async fn a_sandbox_that_is_gone_is_not_asked_again() {
    let gone = r#"{"sandboxId":"i0","message":"The sandbox was not found","code":502}"#;
    let (envd, played) = stage(vec![
        Act::Stream(begins("0"), vec![STARTED.into()], false),
        Act::Status(502, gone),
    ])
    .await;
    let mut followed = envd.follow(&Start::shell("x")).await.unwrap();
    let error = all(&mut followed).await.unwrap_err();
    assert!(
        error.to_string().contains("The sandbox was not found"),
        "{error}"
    );
    assert_eq!(played.await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_envd_that_does_not_count_is_not_asked_again() {
    let (envd, played) = stage(vec![Act::Stream(
        "",
        vec![STARTED.into(), out("stdout", "x")],
        false,
    )])
    .await;
    let mut followed = envd.follow(&Start::shell("x")).await.unwrap();
    assert_eq!(followed.position(), None);
    assert!(all(&mut followed).await.unwrap_err().is_cut());
    assert_eq!(played.await.unwrap().len(), 1);
}

#[tokio::test]
async fn attaching_says_where_to_begin() {
    for (begin, says) in [
        (Begin::Now, None),
        (Begin::Oldest, Some("soulbox-output-from: oldest\r\n")),
        (Begin::At(5), Some("soulbox-output-from: 5\r\n")),
    ] {
        let stream = Act::Stream(begins("9"), vec![STARTED.into(), ENDED.into()], true);
        let (envd, played) = stage(vec![stream]).await;
        let mut followed = envd.attach(7, begin).await.unwrap();
        assert_eq!(all(&mut followed).await.unwrap().1, Some(3));
        assert_eq!(
            followed.take_lost(),
            if begin == Begin::At(5) { 4 } else { 0 }
        );
        let heard = played.await.unwrap().remove(0);
        assert_eq!(heard.contains("soulbox-output-from"), says.is_some());
        assert!(says.is_none_or(|says| heard.contains(says)), "{heard}");
    }
}

#[tokio::test]
async fn patience_has_an_end() {
    let mut patience = Patience::new();
    let broken = || ClientError::broken("x", "cut");
    for _ in 0..ATTEMPTS {
        patience.failed(broken(), true).unwrap();
    }
    assert!(patience.failed(broken(), true).is_err());
    patience.progress();
    assert!(patience.failed(broken(), true).is_ok());
    let mut tries = 0;
    let outcome = patiently(ClientError::is_cut, || {
        tries += 1;
        std::future::ready(if tries < 3 { Err(broken()) } else { Ok(tries) })
    });
    assert_eq!(outcome.await.unwrap(), 3);
}
