//! The one program a user installs: server and command line.
//!
//! `main` reads the arguments, runs one command and turns how it went into an exit code. A command's own exit code
//! (`sandbox exec`) passes through.

mod args;
mod commands;
mod config;
mod embed;
mod failure;
mod output;
mod progress;
mod serve;
mod session;
mod text;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser as _;
use soulbox_client::Api;
use soulbox_telemetry::logs;
use soulbox_telemetry::metrics::Recorder;
use tokio_util::sync::CancellationToken;

use args::{
    BenchCommand, Cli, Command, ConfigCommand, DebugCommand, Global, SandboxCommand,
    TemplateCommand,
};
use failure::Failure;
use output::Output;

/// A request through the edge allocates some thirty times, from several threads: the system's allocator costs a tenth of it.
/// The feature `no_thp` keeps it from asking for huge pages, which would double the memory of an idle server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything can be reached, and on standard error: a person who did not ask for it must see it.
    match soulbox_fault::arm() {
        Ok(None) => {}
        Ok(Some(armed)) => output::note(&armed.to_string()),
        Err(error) => {
            let failure = Failure::usage(error.to_string()).fix("soulbox debug fault-points");
            return report(&failure, Output::Text);
        }
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = if cli.global.json {
        Output::Json
    } else {
        Output::Text
    };
    match run(cli, output) {
        Ok(code) => code,
        Err(failure) => report(&failure, output),
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Help and version are answers, not mistakes. A reader who is gone does not change that.
    error.print().ok();
    if error.use_stderr() {
        ExitCode::from(failure::Kind::Usage.exit_code())
    } else {
        ExitCode::SUCCESS
    }
}

fn report(failure: &Failure, output: Output) -> ExitCode {
    let text = match output {
        Output::Text => failure.render(),
        Output::Json if failure.kind() == failure::Kind::BrokenPipe => String::new(),
        Output::Json => failure.to_json().to_string(),
    };
    if !text.is_empty() {
        output::note(&text);
    }
    ExitCode::from(failure.kind().exit_code())
}

fn run(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => {
            if let Some(inherited) = serve::Inherited::take().map_err(Failure::from_any)? {
                run_server(inherited)?;
                return Ok(ExitCode::SUCCESS);
            }
            let inputs = config::read_inputs(
                global.config.as_deref(),
                args.layer(&global),
                config::Unreadable::Fails,
            )?;
            let effective = config::load(&inputs)?;
            match serve::launch(&effective) {
                Ok(never) => match never {},
                Err(error) => return Err(Failure::from_any(error)),
            }
        }
        Command::Helper { socket } => run_helper(socket)?,
        Command::Config(ConfigCommand::Check(args)) => {
            commands::config::check(&global, &args, output)?;
        }
        Command::Ca => commands::ca::show(&session::data_dir(&global)?, output)?,
        Command::Sandbox(command) => {
            let api = session::api(&global)?;
            return as_client(sandbox(&api, command, output));
        }
        Command::Key(command) => {
            let api = session::api(&global)?;
            as_client(commands::key::run(&api, command, output))?;
        }
        Command::Template(command) => template(&global, command, output)?,
        Command::Snapshot(command) => {
            let api = session::api(&global)?;
            as_client(commands::branch::run(&api, command, output))?;
        }
        Command::Volume(command) => {
            let api = session::api(&global)?;
            as_client(commands::volume::run(&api, command, output))?;
        }
        Command::Secret(command) => {
            let api = session::api(&global)?;
            as_client(commands::secret::run(&api, command, output))?;
        }
        Command::Webhook(command) => {
            let api = session::api(&global)?;
            as_client(commands::webhook::run(&api, command, output))?;
        }
        Command::Bench(command) => return bench(&global, command, output),
        Command::BenchBare { rootfs, network } => {
            soulbox_bench::bare::serve(&rootfs, network)
                .map_err(|error| Failure::internal("cannot measure system calls").because(error))?;
        }
        Command::Criu(args) => {
            commands::criu::fetch(&session::data_dir(&global)?, &args, output)?;
        }
        Command::Doctor => return commands::doctor::run(&global, output),
        Command::Debug(DebugCommand::Plan { template }) => {
            commands::debug::plan(&session::data_dir(&global)?, &template, output)?;
        }
        Command::Debug(DebugCommand::Filter) => commands::debug::filter(output)?,
        Command::Debug(DebugCommand::FaultPoints) => commands::debug::fault_points(output)?,
        Command::Gc(args) => {
            let api = session::api(&global)?;
            as_client(commands::gc::run(&api, args, output))?;
        }
        Command::Purge(args) => {
            let purge = commands::purge::run(session::data_dir(&global)?, args, output);
            runtime()?.block_on(purge)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn sandbox(api: &Api, command: SandboxCommand, output: Output) -> Result<ExitCode, Failure> {
    use commands::{
        analysis, attach, branch, events, exec, net, pause, sandbox, terminal, tree, url, watch,
    };
    match command {
        SandboxCommand::Create(args) => sandbox::create(api, args, output).await?,
        SandboxCommand::List(args) => sandbox::list(api, args, output).await?,
        SandboxCommand::Info(args) => sandbox::info(api, args, output).await?,
        SandboxCommand::Pause(args) => pause::pause(api, &args, output).await?,
        SandboxCommand::Resume(args) => pause::resume(api, &args, output).await?,
        SandboxCommand::Fork(args) => branch::fork(api, &args, output).await?,
        SandboxCommand::Snapshot(args) => branch::take(api, &args, output).await?,
        SandboxCommand::Tree => tree::show(api, output).await?,
        SandboxCommand::Kill(args) => sandbox::kill(api, args, output).await?,
        SandboxCommand::Metrics(args) => watch::metrics(api, args, output).await?,
        SandboxCommand::Logs(args) => watch::logs(api, args, output).await?,
        SandboxCommand::Events(args) => events::events(api, &args, output).await?,
        SandboxCommand::Analyze(args) => return analysis::analyze(api, &args, output).await,
        SandboxCommand::Plot(args) => analysis::plot(api, &args, output).await?,
        SandboxCommand::Url(args) => url::url(api, &args, output).await?,
        SandboxCommand::Net(args) => net::net(api, &args, output).await?,
        SandboxCommand::Allow(args) => net::allow(api, &args, output).await?,
        SandboxCommand::Exec(args) => return exec::exec(api, args, output).await,
        SandboxCommand::Attach(args) => return attach::attach(api, args, output).await,
        SandboxCommand::Connect(args) => return terminal::connect(api, args).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn template(global: &Global, command: TemplateCommand, output: Output) -> Result<(), Failure> {
    use commands::{contents, template, versions};
    let on_disk = || session::data_dir(global);
    let api = || session::api(global);
    match command {
        TemplateCommand::Bootstrap(args) => template::bootstrap(&on_disk()?, &args, output),
        TemplateCommand::Verify { name } => template::verify(&on_disk()?, &name, output),
        TemplateCommand::Import(args) => as_client(commands::template_build::build(
            &api()?,
            args.build(),
            output,
        )),
        TemplateCommand::Build(args) => {
            as_client(commands::template_build::build(&api()?, *args, output))
        }
        TemplateCommand::List => as_client(template::list(&api()?, output)),
        TemplateCommand::Show(of) => as_client(template::show(&api()?, &of.name, output)),
        TemplateCommand::Versions(of) => as_client(versions::versions(&api()?, &of.name, output)),
        TemplateCommand::Rollback(args) => as_client(versions::rollback(&api()?, &args, output)),
        TemplateCommand::Search(args) => as_client(versions::search(&api()?, &args, output)),
        TemplateCommand::Describe(args) => as_client(versions::describe(&api()?, &args, output)),
        TemplateCommand::Diff(args) => as_client(contents::diff(&api()?, &args, output)),
        TemplateCommand::Export(args) => as_client(contents::export(&api()?, &args, output)),
        TemplateCommand::Publish(of) => {
            as_client(template::publish(&api()?, &of.name, true, output))
        }
        TemplateCommand::Unpublish(of) => {
            as_client(template::publish(&api()?, &of.name, false, output))
        }
        TemplateCommand::Rm(of) => as_client(template::remove(&api()?, &of.name, output)),
    }
}

fn bench(global: &Global, command: BenchCommand, output: Output) -> Result<ExitCode, Failure> {
    let api = session::api(global)?;
    let args = command.args();
    let rootfs = match (&args.rootfs, session::data_dir(global)) {
        (Some(rootfs), _) => Ok(rootfs.clone()),
        (None, Ok(data_dir)) => commands::template::rootfs(&data_dir, &args.template),
        (None, Err(failure)) => Err(failure),
    };
    let rootfs = rootfs.map_err(|failure| failure.render());
    as_client(commands::bench::run(&api, command, rootfs, output))
}

/// Runs a client's command to its end. What it leaves behind, a thread that reads standard input for example, is
/// not waited for.
fn as_client<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let done = runtime.block_on(command);
    runtime.shutdown_background();
    done
}

/// Runs the server in this process until it is told to end.
fn run_server(inherited: serve::Inherited) -> Result<(), Failure> {
    let config = inherited.config().map_err(Failure::from_any)?;
    logs::init(&config.log_level, config.log_format)
        .map_err(|error| Failure::usage("cannot set up the logs").because(error))?;
    runtime()?.block_on(async {
        if let Some(address) = config.metrics_listen {
            listen_for_metrics(address).await?;
        }
        serve::run(config, inherited)
            .await
            .map_err(Failure::from_any)
    })
}

/// Runs the helper of a server until the server is gone. Nothing is waited for then: what is in the middle of something
/// is found half done by the next start, as after a kill.
fn run_helper(socket: i32) -> Result<(), Failure> {
    let server = soulbox_linux::spawn::inherited_fd(socket)
        .map_err(|error| Failure::usage("this is for `soulbox serve`").because(error))?;
    let runtime = runtime()?;
    let done = runtime.block_on(serve::helper::run(server));
    runtime.shutdown_background();
    done.map_err(Failure::from_any)
}

async fn listen_for_metrics(address: SocketAddr) -> Result<(), Failure> {
    let recorder = Recorder::install()
        .map_err(|error| Failure::internal("cannot set up metrics").because(error))?;
    // Metrics are served to the very end: what a slow shutdown does is worth seeing.
    let bound = recorder
        .serve(address, CancellationToken::new())
        .await
        .map_err(|error| {
            Failure::user("cannot serve metrics")
                .because(error)
                .fix("free that address, or choose another with --metrics-listen")
        })?;
    tracing::info!(metrics.address = %bound, "metrics at http://{bound}/metrics");
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal("cannot start the runtime").because(error))
}
