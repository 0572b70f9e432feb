//! soulbox-interpreter: runs code in Jupyter kernels for `e2b-code-interpreter`, on port 49999 of a sandbox.
//!
//! Static and single-threaded like the daemon beside it. It may be frozen, written to disk and woken as another
//! sandbox: everything it has is inside the sandbox, and which one it is in is asked before each execution.

mod args;
mod ascii;
mod backing;
mod context;
mod contexts;
mod envd;
mod http;
mod item;
mod kernel;
mod kernelspec;
mod language;
mod notebook;
mod notebooks;
mod run;
mod start;
mod wire;
mod zygote;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::TcpListener;

use crate::args::Args;
use crate::contexts::World;
use crate::envd::Envd;
use crate::start::Starter;

/// Between two servers, so that one that cannot start does not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(200);
/// Languages whose contexts are there from the beginning. The first one's kernel is, too.
const DEFAULTS: [&str; 2] = ["python", "javascript"];

#[expect(clippy::print_stderr, reason = "the program's own command line")]
fn main() -> ExitCode {
    let args = match args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("soulbox-interpreter: {message}");
            return ExitCode::from(64);
        }
    };
    let outcome = if args.is_server {
        served(args)
    } else {
        supervised()
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soulbox-interpreter: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts a server, and another whenever one has ended.
fn supervised() -> io::Result<()> {
    let program = std::env::current_exe()?;
    loop {
        std::process::Command::new(&program)
            .arg("serve")
            .args(std::env::args().skip(1))
            .status()?;
        std::thread::sleep(PAUSE);
    }
}

fn served(args: Args) -> io::Result<()> {
    // Two servers would want the same port.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(args))
}

#[expect(clippy::print_stderr, reason = "a start that is not whole is told")]
async fn serve(args: Args) -> io::Result<()> {
    for directory in [&args.run, &args.backing] {
        std::fs::create_dir_all(directory)?;
    }
    let envd = Envd {
        address: args.envd,
        identity: args.identity,
    };
    let world = World::new(
        Starter::new(args.kernels, args.run, args.backing),
        envd,
        args.home,
    );
    for (index, language) in DEFAULTS.into_iter().enumerate() {
        let declared = match index {
            0 => world.first(language).await,
            _ if world.has_kernel(language) => world.declare(language).map(drop),
            _ => Ok(()),
        };
        if let Err(error) = declared {
            eprintln!("soulbox-interpreter: {error}");
        }
    }
    // Only now: who asks for health wants to run code at once.
    let listener = TcpListener::bind(args.listen).await?.tap_io(|stream| {
        // Lines are short and wait for nothing. A connection that is gone already is noticed by who reads it.
        drop(stream.set_nodelay(true));
    });
    axum::serve(listener, http::router(Arc::new(world))).await
}
