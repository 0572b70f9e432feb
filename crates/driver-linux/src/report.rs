//! What happened to processes of one guest, on its way to those who want to know: the server and envd.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use soulbox_driver::{Guest, OomKill};
use soulbox_envd_proto::{OOM_PATH, OomReport, PORT};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, mpsc};

use crate::lock::locked;
use crate::oom::Victim;

/// Reports that may wait for a reader.
const QUEUE: usize = 64;
/// A sandbox that dies of its memory over and over fills neither logs nor envd: beyond this many reports in a second it
/// is only counted.
const PER_SECOND: u32 = 20;
/// envd answers at once or is in no state to listen.
const ENVD_PATIENCE: Duration = Duration::from_secs(2);

/// The reports of one guest.
#[derive(Debug)]
pub(crate) struct Reports {
    listeners: broadcast::Sender<OomKill>,
    for_envd: mpsc::Sender<Victim>,
    queue: tokio::sync::Mutex<mpsc::Receiver<Victim>>,
    named: AtomicU64,
    rate: Mutex<Rate>,
}

impl Default for Reports {
    fn default() -> Self {
        let (for_envd, queue) = mpsc::channel(QUEUE);
        Self {
            listeners: broadcast::Sender::new(QUEUE),
            for_envd,
            queue: tokio::sync::Mutex::new(queue),
            named: AtomicU64::new(0),
            rate: Mutex::default(),
        }
    }
}

impl Reports {
    /// Takes one in. Never waits.
    pub(crate) fn take(&self, victim: Victim) {
        let mut rate = locked(&self.rate);
        if !rate.admits(Instant::now()) {
            return;
        }
        drop(rate);
        // Nobody listens while the server is still taking the guest over; then it counts as not told.
        if self.listeners.send(victim.kill.clone()).is_ok() {
            self.named.fetch_add(1, Ordering::Relaxed);
        }
        if self.for_envd.try_send(victim).is_err() {
            tracing::debug!("envd falls behind: a report of a killed process is dropped");
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<OomKill> {
        self.listeners.subscribe()
    }

    /// How many were told of.
    pub(crate) fn named(&self) -> u64 {
        self.named.load(Ordering::Relaxed)
    }

    /// Carries reports to the guest's envd. Never ends.
    pub(crate) async fn carry(&self, guest: &dyn Guest) {
        let mut queue = self.queue.lock().await;
        while let Some(victim) = queue.recv().await {
            let told = tokio::time::timeout(ENVD_PATIENCE, tell(guest, victim)).await;
            if let Err(error) = told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                // The end of the command then says "out of memory" without a name.
                tracing::debug!(%error, sandbox.id = %guest.spec().id, "envd does not hear of a killed process");
            }
        }
        std::future::pending::<()>().await;
    }
}

async fn tell(guest: &dyn Guest, victim: Victim) -> io::Result<()> {
    let report = OomReport {
        name: victim.kill.name,
        pid: victim.kill.pid,
        ancestors: victim.ancestors,
    };
    let request = request(&report, &guest.spec().envd_access_token)?;
    let stream = guest.dial(PORT).await.map_err(io::Error::other)?;
    send(stream, &request).await
}

/// The whole request: one line of it is not worth a client library.
fn request(report: &OomReport, token: &str) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(report)?;
    let head = format!(
        "POST {OOM_PATH} HTTP/1.1\r\nHost: sandbox\r\nX-Access-Token: {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    Ok([head.as_bytes(), &body].concat())
}

async fn send(mut stream: TcpStream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).await?;
    if status.starts_with("HTTP/1.1 204") {
        Ok(())
    } else {
        Err(io::Error::other(format!("envd answered {}", status.trim())))
    }
}

/// Counts within the current second.
#[derive(Debug, Default)]
struct Rate {
    since: Option<Instant>,
    count: u32,
}

impl Rate {
    fn admits(&mut self, now: Instant) -> bool {
        let fresh = self
            .since
            .is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1));
        if fresh {
            *self = Self {
                since: Some(now),
                count: 0,
            };
        }
        self.count += 1;
        self.count <= PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn victim(pid: i32) -> Victim {
        Victim {
            kill: OomKill {
                name: "python3".into(),
                pid: Some(pid),
            },
            ancestors: None,
        }
    }

    #[test]
    fn reports_are_counted_and_limited() {
        let reports = Reports::default();
        let mut heard = reports.subscribe();
        for pid in 0..100 {
            reports.take(victim(pid));
        }
        assert_eq!(reports.named(), u64::from(PER_SECOND));
        assert_eq!(heard.try_recv().unwrap().pid, Some(0));
        let mut rate = Rate::default();
        let now = Instant::now();
        assert!((0..PER_SECOND).all(|_| rate.admits(now)) && !rate.admits(now));
        assert!(rate.admits(now + Duration::from_secs(1)));
    }

    #[test]
    fn requests_are_whole() {
        let report = OomReport {
            name: "a\"b".into(),
            pid: Some(7),
            ancestors: Some(vec![3, 2]),
        };
        let request = String::from_utf8(request(&report, "t").unwrap()).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("X-Access-Token: t\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert_eq!(serde_json::from_str::<OomReport>(body).unwrap(), report);
    }
}
