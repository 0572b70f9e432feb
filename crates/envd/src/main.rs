//! soulbox-envd: the daemon inside every sandbox. PID 1 there, an ordinary program in tests.
//!
//! Processes, files, terminals and watches for clients, over HTTP on one port. Static and single-threaded: it must run
//! in any image and cost next to nothing while idle.

mod app;
mod args;
mod body;
mod boot;
mod call;
mod clock;
mod cors;
mod directories;
mod files;
mod filesystem;
mod idle;
mod init;
mod metrics;
mod oom;
mod path;
mod process;
mod random;
mod reaper;
mod reply;
mod route;
mod rpc_timeout;
mod server;
mod settings;
mod spawner;
mod sync;
mod timestamp;
mod user;
mod watched;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use soulbox_envd_proto::{ENVD_VERSION, InitBody};
use soulbox_linux::spawn::{ForkServer, inherited_fd};

use crate::app::App;
use crate::args::Args;
use crate::filesystem::Watchers;
use crate::metrics::Meter;
use crate::oom::OomKills;
use crate::process::Table;
use crate::reaper::Reaper;
use crate::route::Endpoints;
use crate::settings::Settings;
use crate::spawner::Spawner;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Threads are only for file work that may take long; an idle envd has none.
const BLOCKING_THREADS_MAX: usize = 4;
const BLOCKING_THREAD_KEEP_ALIVE: Duration = Duration::from_millis(500);

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the program's own command line"
)]
fn main() -> ExitCode {
    let args = match args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("soulbox-envd: {message}");
            return ExitCode::from(64);
        }
    };
    if args.version {
        println!("soulbox-envd {ENVD_VERSION}");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("soulbox-envd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything before the runtime, in the order that matters: the fork server is made while there is one thread and no
/// descriptor but the launcher's, and before this process's own limits and memory change.
fn run(args: &Args) -> io::Result<std::convert::Infallible> {
    // Nobody in the sandbox may read the token from this process's memory.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let status = args.status_fd.map(inherited_fd).transpose()?;
    let outcome = prepare(args).and_then(|prepared| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_keep_alive(BLOCKING_THREAD_KEEP_ALIVE)
            .build()?;
        Ok((runtime, prepared))
    });
    match outcome {
        Ok((runtime, prepared)) => runtime.block_on(serve(args, prepared, status)),
        Err(error) => {
            boot::report(status, &format!("{error}"));
            Err(error)
        }
    }
}

/// What is there before the runtime.
struct Prepared {
    settings: Settings,
    server: ForkServer,
    user_cgroups: Vec<OwnedFd>,
    oom_counter: Option<OwnedFd>,
}

fn prepare(args: &Args) -> io::Result<Prepared> {
    let user_cgroups: Vec<OwnedFd> = args
        .user_cgroup_fds
        .iter()
        .copied()
        .map(inherited_fd)
        .collect::<io::Result<_>>()?;
    let oom_counter = args.oom_fd.map(inherited_fd).transpose()?;
    let server = ForkServer::start(&user_cgroups.iter().map(|fd| fd.as_fd()).collect::<Vec<_>>())?;
    raise_descriptor_limit();
    Ok(Prepared {
        settings: settings(args)?,
        server,
        user_cgroups,
        oom_counter,
    })
}

fn settings(args: &Args) -> io::Result<Settings> {
    if let Some(number) = args.boot_fd {
        return booted(number);
    }
    let settings = Settings::new();
    let body = InitBody {
        access_token: args.token.clone(),
        default_user: args.user.clone(),
        ..InitBody::default()
    };
    settings.init(&body, None);
    Ok(settings)
}

fn booted(number: RawFd) -> io::Result<Settings> {
    let document = boot::read(inherited_fd(number)?)?;
    boot::write_identity(Some(&document.sandbox_id), Some(&document.template_id))?;
    Ok(Settings::booted(&document))
}

/// Three descriptors per process and one per connection add up. Users' processes keep the limit envd was given: the
/// fork server was made before.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    // With the lower limit envd still works, for fewer clients at once.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

async fn serve(
    args: &Args,
    prepared: Prepared,
    status: Option<OwnedFd>,
) -> io::Result<std::convert::Infallible> {
    let started = start(args, prepared);
    let (listener, processes, endpoints) = match started {
        Ok(started) => started,
        Err(error) => {
            boot::report(status, &format!("listening on {}: {error}", args.listen));
            return Err(error);
        }
    };
    announce(args, &listener);
    boot::report(status, "ready");
    tokio::spawn(async { idle::trim_after_work().await });
    tokio::spawn(async move { processes.forget_in_time().await });
    server::serve(listener, endpoints).await
}

fn start(
    args: &Args,
    prepared: Prepared,
) -> io::Result<(tokio::net::TcpListener, Arc<Table>, Endpoints)> {
    let listener = server::listen(args.listen)?;
    let reaper = Arc::new(Reaper::default());
    reaper.start()?;
    let app = App {
        settings: prepared.settings,
        processes: Arc::new(Table::default()),
        oom_kills: Arc::new(OomKills::new(prepared.oom_counter)),
        watchers: Watchers::default(),
        spawner: Spawner::start(prepared.server, prepared.user_cgroups, reaper)?,
        meter: Meter::new(),
        inherited_path: std::env::var("PATH")
            .ok()
            .filter(|p| !p.is_empty())
            .unwrap_or_else(|| DEFAULT_PATH.into()),
    };
    let processes = Arc::clone(&app.processes);
    Ok((listener, processes, Endpoints::new(Arc::new(app))))
}

/// Outside a sandbox, whoever asked for port 0 needs to know which one it became.
#[expect(clippy::print_stdout, reason = "the program's own command line")]
fn announce(args: &Args, listener: &tokio::net::TcpListener) {
    if args.boot_fd.is_none()
        && let Ok(address) = listener.local_addr()
    {
        println!("listening on {address}");
    }
}
