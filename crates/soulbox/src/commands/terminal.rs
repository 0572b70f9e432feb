//! `soulbox sandbox connect`: a shell in a sandbox on this terminal.
//!
//! The terminal is in raw mode meanwhile: every key goes to the sandbox, and it must be put back on every way out,
//! a panic included. `Enter ~ .` leaves the shell running and detaches, as in ssh.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Once;

use bytes::Bytes;
use crossterm::terminal;
use soulbox_api_types::sandbox::{ConnectSandbox, SandboxState};
use soulbox_client::envd::Envd;
use soulbox_client::follow::{Begin, Followed, patiently};
use soulbox_client::process::{End, Event, Size, Start};
use soulbox_client::{Api, ClientError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::exec::stdin_pieces;
use crate::args::ConnectArgs;
use crate::failure::Failure;
use crate::output::{self, note};
use crate::session::failure;

/// How a session ended.
enum Outcome {
    Ended(End),
    Detached,
}

/// Opens it; the exit code is the shell's.
pub(crate) async fn connect(api: &Api, args: ConnectArgs) -> Result<ExitCode, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::usage("`sandbox connect` needs a terminal")
            .fix(format!("soulbox sandbox exec {} -- COMMAND", args.id)));
    }
    let id = args.id.clone();
    let failed = |error: &ClientError| failure(error, Some(&id));
    let envd = envd(api, &id).await.map_err(|error| failed(&error))?;
    let mut events = match args.attach {
        Some(pid) => envd.attach(pid, Begin::Now).await,
        None => envd.follow(&shell(args.user)).await,
    }
    .map_err(|error| failed(&error))?;
    let pid = events.pid();
    if args.attach.is_some() {
        envd.resize(pid, size())
            .await
            .map_err(|error| failed(&error))?;
    }
    let raw = RawMode::enter()?;
    let outcome = session(&envd, &mut events).await;
    drop(raw);
    match outcome {
        Ok(Outcome::Ended(end)) => Ok(ExitCode::from(end.shell_code())),
        Ok(Outcome::Detached) => {
            note(&format!(
                "\ndetached; come back with: soulbox sandbox connect {id} --attach {pid}"
            ));
            Ok(ExitCode::SUCCESS)
        }
        Err(Stopped::Call(error)) => Err(failed(&error)),
        Err(Stopped::Here(failure)) => Err(failure),
    }
}

async fn envd(api: &Api, id: &str) -> Result<Envd, ClientError> {
    let sandbox = api.get_sandbox(id).await?;
    match sandbox.state {
        SandboxState::Running => Ok(api.envd_of_detail(&sandbox)),
        SandboxState::Paused => Ok(api.envd(&api.connect(id, &ConnectSandbox::default()).await?)),
    }
}

fn shell(user: Option<String>) -> Start {
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".to_owned());
    let utf8 = "C.UTF-8".to_owned();
    Start {
        cmd: "/bin/bash".to_owned(),
        args: vec!["-i".to_owned(), "-l".to_owned()],
        envs: BTreeMap::from([
            ("TERM".to_owned(), term),
            ("LANG".to_owned(), utf8.clone()),
            ("LC_ALL".to_owned(), utf8),
        ]),
        user,
        stdin: true,
        pty: Some(size()),
        ..Start::default()
    }
}

fn size() -> Size {
    // A terminal that does not know its size gets the traditional one.
    let (cols, rows) = terminal::size()
        .ok()
        .filter(|(cols, rows)| *cols > 0 && *rows > 0)
        .unwrap_or((80, 24));
    Size { cols, rows }
}

enum Stopped {
    Call(ClientError),
    Here(Failure),
}

async fn session(envd: &Envd, events: &mut Followed) -> Result<Outcome, Stopped> {
    let pid = events.pid();
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Stopped::Here(Failure::internal("cannot listen for signals").because(error))
        })
    };
    let mut resized = listen(SignalKind::window_change())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut keyboard = tokio::spawn(forward_keys(envd.clone(), pid, stdin_pieces()));
    let mut keyboard_open = true;
    let mut ended = None;
    let outcome = loop {
        tokio::select! {
            event = events.next() => match event.map_err(Stopped::Call)? {
                Some(Event::Started { .. }) => {}
                Some(Event::Pty(data) | Event::Stdout(data) | Event::Stderr(data)) => {
                    output::bytes(&data).map_err(Stopped::Here)?;
                }
                Some(Event::Ended(end)) => ended = Some(end),
                None => break ended.map(Outcome::Ended),
            },
            left = &mut keyboard, if keyboard_open => {
                keyboard_open = false;
                if matches!(left, Ok(Left::Detach)) {
                    break Some(Outcome::Detached);
                }
                // The shell takes no more keys: it is about to end, and the stream says how.
            }
            _ = resized.recv() => {
                envd.resize(pid, size()).await.ok();
            }
            _ = hangup.recv() => break Some(Outcome::Detached),
            _ = terminate.recv() => break Some(Outcome::Detached),
        }
    };
    keyboard.abort();
    outcome.ok_or_else(|| Stopped::Here(Failure::internal("envd did not say how the shell ended")))
}

/// Why no more keys are sent.
enum Left {
    Detach,
    Refused,
}

async fn forward_keys(envd: Envd, pid: u32, mut pieces: mpsc::Receiver<Bytes>) -> Left {
    let mut escape = Escape::default();
    while let Some(piece) = pieces.recv().await {
        let (keys, detach) = escape.filter(&piece);
        let send = || envd.send_pty(pid, &keys);
        if !keys.is_empty()
            && let Err(error) = patiently(ClientError::is_unreachable, send).await
            // Keys that were on their way when the connection broke may be lost; whoever types sees it.
            && !error.is_cut()
        {
            return Left::Refused;
        }
        if detach {
            return Left::Detach;
        }
    }
    // The terminal is gone.
    Left::Detach
}

/// Finds `~.` at the start of a line in what is typed. `~~` types one tilde; any other key after `~` types both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Escape {
    #[default]
    LineStart,
    Tilde,
    InLine,
}

impl Escape {
    /// The keys to send, and whether to detach after them.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut keys = Vec::with_capacity(typed.len());
        for &key in typed {
            match (*self, key) {
                (Self::LineStart, b'~') => {
                    *self = Self::Tilde;
                    continue;
                }
                (Self::Tilde, b'.') => return (keys, true),
                (Self::Tilde, b'~') => {}
                (Self::Tilde, _) => keys.push(b'~'),
                (Self::LineStart | Self::InLine, _) => {}
            }
            keys.push(key);
            *self = if matches!(key, b'\r' | b'\n') {
                Self::LineStart
            } else {
                Self::InLine
            };
        }
        (keys, false)
    }
}

/// The terminal in raw mode, until dropped.
struct RawMode;

impl RawMode {
    fn enter() -> Result<Self, Failure> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                // Before the message: in raw mode it would be a staircase.
                restore();
                previous(info);
            }));
        });
        terminal::enable_raw_mode()
            .map_err(|error| Failure::internal("cannot take over the terminal").because(error))?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, and undoes what a program that was cut off may have left switched on: hidden cursor,
/// colours, bracketed paste, mouse reports.
fn restore() {
    let mut out = std::io::stdout().lock();
    out.write_all(b"\x1b[?25h\x1b[0m\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l")
        .ok();
    out.flush().ok();
    terminal::disable_raw_mode().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&str]) -> (String, bool) {
        let mut escape = Escape::default();
        let mut all = String::new();
        for piece in pieces {
            let (keys, detach) = escape.filter(piece.as_bytes());
            all.push_str(std::str::from_utf8(&keys).unwrap());
            if detach {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn tilde_dot_at_the_start_of_a_line_detaches() {
        assert_eq!(typed(&["~."]), (String::new(), true));
        assert_eq!(typed(&["ls\r~", ".rest"]), ("ls\r".to_owned(), true));
        assert_eq!(typed(&["\r", "~", "."]), ("\r".to_owned(), true));
    }

    #[test]
    fn other_tildes_are_typed() {
        assert_eq!(typed(&["ls ~.\r"]), ("ls ~.\r".to_owned(), false));
        assert_eq!(typed(&["~/x\r"]), ("~/x\r".to_owned(), false));
        assert_eq!(typed(&["~~.\r"]), ("~.\r".to_owned(), false));
        assert_eq!(typed(&["~\r~x"]), ("~\r~x".to_owned(), false));
    }
}
