//! Starting a process: whom it runs as, where, with which environment and streams.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use connectrpc::{ConnectError, ErrorCode};
use rustix::pipe::{PipeFlags, pipe_with};
use soulbox_envd_proto::process::pty::Size;
use soulbox_envd_proto::process::{ProcessConfig, StartRequest};
use soulbox_linux::pty::{self, Pty};
use soulbox_linux::spawn::{Credentials, SpawnError, SpawnRequest};

use super::heard::{Begin, Heard};
use super::input::{Input, Terminal};
use super::pump::Output;
use super::ring::Kind;
use super::supervise::supervise;
use super::table::{PROCESSES_MAX, Process};
use crate::app::App;
use crate::path;
use crate::spawner::Streams;
use crate::user::User;

/// Users' processes are the first to go when the sandbox is out of memory, not envd.
const OOM_SCORE: i32 = 100;

/// A started process and its first listener.
pub(crate) struct Started {
    pub(crate) process: Arc<Process>,
    pub(crate) heard: Heard,
}

/// Starts what was asked for; it is listed when this returns.
pub(crate) async fn start(
    app: &Arc<App>,
    user: &User,
    request: StartRequest,
    deadline: Option<Instant>,
) -> Result<Started, ConnectError> {
    if app.processes.is_full() {
        return Err(ConnectError::resource_exhausted(format!(
            "too many processes (limit {PROCESSES_MAX})"
        )));
    }
    let StartRequest {
        process: config,
        pty,
        tag,
        stdin,
        ..
    } = request;
    let config = config.into_option().unwrap_or_default();
    let workdir = app.settings.default_workdir();
    let cwd = working_directory(&config, user, workdir.as_deref())?;
    let spawn = SpawnRequest {
        argv: std::iter::once(&config.cmd)
            .chain(&config.args)
            .map(|a| a.clone().into_bytes())
            .collect(),
        env: environment(&app.inherited_path, user, app.settings.variables(), &config),
        cwd: cwd.into_bytes(),
        credentials: identity(user),
        controlling_terminal: pty.is_set(),
        oom_score_adj: Some(OOM_SCORE),
        limits: Vec::new(),
    };
    let plumbing = match pty.into_option() {
        Some(pty) => Plumbing::terminal(user, &pty.size.into_option().unwrap_or_default()),
        None => Plumbing::pipes(stdin.unwrap_or(true)),
    };
    let Plumbing {
        theirs,
        input,
        terminal,
        outputs,
    } = plumbing.map_err(|e| {
        ConnectError::internal(format!("error preparing the process's streams: {e}"))
    })?;
    let before = app.oom_kills.mark();
    let started = app
        .spawner
        .spawn(spawn, theirs)
        .await
        .map_err(|e| spawn_failed(&e))?;

    let tape = app.processes.open_tape();
    let process = Process::new(started.pid, config, tag, started.ending.reaped, tape)
        .with_streams(input, terminal)
        .with_deadline(deadline);
    let process = Arc::new(process);
    let heard = process.listen(Begin::Now)?;
    app.processes.insert(Arc::clone(&process));
    tokio::spawn(supervise(
        Arc::clone(app),
        Arc::clone(&process),
        outputs,
        started.ending.status,
        before,
    ));
    Ok(Started { process, heard })
}

/// Without root there is only one account whose processes can be started, and nothing to change for it.
fn identity(user: &User) -> Option<Credentials> {
    let me = rustix::process::geteuid();
    let already = !me.is_root() && me.as_raw() == user.uid;
    (!already).then(|| user.credentials())
}

fn working_directory(
    config: &ProcessConfig,
    user: &User,
    workdir: Option<&str>,
) -> Result<String, ConnectError> {
    let given = config.cwd.as_deref().unwrap_or_default();
    let cwd = path::resolve(given, &user.home, workdir)
        .map_err(|e| ConnectError::invalid_argument(e.to_string()))?;
    match std::fs::metadata(&cwd) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(
            ConnectError::invalid_argument(format!("cwd '{cwd}' does not exist")),
        ),
        // Whatever else is wrong shows when the process enters it.
        _ => Ok(cwd),
    }
}

/// Nothing of envd's own but `PATH`. Later ones win.
fn environment(
    inherited_path: &str,
    user: &User,
    variables: BTreeMap<String, String>,
    config: &ProcessConfig,
) -> Vec<Vec<u8>> {
    let account = [
        ("PATH", inherited_path),
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
    ];
    let mut all: BTreeMap<String, String> = account
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    all.extend(variables);
    all.extend(
        config
            .envs
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    // An entry that execve could not carry would make every command fail; it is left out instead.
    let fits = |name: &str, value: &str| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    };
    all.into_iter()
        .filter(|(n, v)| fits(n, v))
        .map(|(n, v)| format!("{n}={v}").into_bytes())
        .collect()
}

fn spawn_failed(error: &SpawnError) -> ConnectError {
    let code = match error {
        SpawnError::Step { .. } => ErrorCode::InvalidArgument,
        SpawnError::Gone(_) => ErrorCode::Internal,
    };
    ConnectError::new(code, format!("error starting process: {error}"))
}

/// Both sides of a process's streams.
struct Plumbing {
    theirs: Streams,
    input: Option<Input>,
    terminal: Option<Terminal>,
    outputs: Vec<Output>,
}

impl Plumbing {
    fn pipes(with_stdin: bool) -> io::Result<Self> {
        let (stdin, input) = if with_stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (theirs, Some(Input::start(ours)?))
        } else {
            (OwnedFd::from(File::open("/dev/null")?), None)
        };
        let (our_out, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_err, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let outputs = vec![
            Output::new(our_out, Kind::Stdout)?,
            Output::new(our_err, Kind::Stderr)?,
        ];
        Ok(Self {
            theirs: Streams {
                stdin,
                stdout,
                stderr,
            },
            input,
            terminal: None,
            outputs,
        })
    }

    fn terminal(user: &User, size: &Size) -> io::Result<Self> {
        let (rows, cols) = window(size);
        let Pty { master, slave } = pty::open(user.uid, rows, cols)?;
        // Separate descriptors: the runtime watches each for one direction.
        let (writer, terminal) = (master.try_clone()?, Terminal::new(master.try_clone()?));
        let theirs = Streams {
            stdin: slave.try_clone()?,
            stdout: slave.try_clone()?,
            stderr: slave,
        };
        let outputs = vec![Output::new(master, Kind::Pty)?];
        Ok(Self {
            theirs,
            input: Some(Input::start(writer)?),
            terminal: Some(terminal),
            outputs,
        })
    }
}

/// Rows and columns as the kernel has them.
pub(crate) fn window(size: &Size) -> (u16, u16) {
    let clamp = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    (clamp(size.rows), clamp(size.cols))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_win_and_unusable_ones_are_left_out() {
        let user = User {
            name: "u".into(),
            uid: 1,
            gid: 1,
            home: "/h".into(),
        };
        let variables = BTreeMap::from([
            ("A".to_owned(), "global".to_owned()),
            ("B".to_owned(), "b".to_owned()),
        ]);
        let envs = [
            ("A", "own"),
            ("PATH", "/x"),
            ("", "empty"),
            ("N\0", "nul"),
            ("E=", "equals"),
        ];
        let config = ProcessConfig {
            envs: envs
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            ..ProcessConfig::default()
        };
        let all = environment("/bin", &user, variables, &config);
        let all: Vec<String> = all
            .into_iter()
            .map(|e| String::from_utf8(e).unwrap())
            .collect();
        assert_eq!(
            all,
            ["A=own", "B=b", "HOME=/h", "LOGNAME=u", "PATH=/x", "USER=u"]
        );
    }
}
