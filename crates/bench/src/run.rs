//! What all measurements share: options, one timed sandbox, cleaning up.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use soulbox_api_types::network::SandboxNetworkConfig;
use soulbox_api_types::sandbox::{NewSandbox, Sandbox};
use soulbox_client::api::{ListQuery, new_sandbox};
use soulbox_client::envd::Envd;
use soulbox_client::process::Start;
use soulbox_client::{Api, ClientError};

use crate::{
    Report, burst, create, edge, exec, files, growth, idle, interpreter, lifecycle, network,
    sustained, template, transfer,
};

/// Label of every sandbox made here, so that what a broken run leaves behind can be found.
const LABEL: &str = "soulbox-bench";
/// A sandbox that is forgotten ends after this long.
const TIMEOUT_SECONDS: i32 = 3600;
/// Rounds before anything counts: caches fill, connections open, slots get prepared.
pub(crate) const WARM_UP: u32 = 5;

/// What to measure with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds or sandboxes; each bench has its own default.
    pub count: Option<u32>,
    /// Template to create from.
    pub template: String,
    /// Workers at once, for sustained.
    pub workers: u32,
    /// How long, for sustained.
    pub duration: Duration,
    /// Size of the file, for transfer.
    pub size_mib: u32,
    /// The root file system that references stand on: peers, and the bare system calls. Or why there is none.
    pub rootfs: Result<PathBuf, String>,
    /// Whether peers are measured.
    pub peers: bool,
    /// Whether each step of a create is.
    pub trace: bool,
    /// Whether creates with a cold page cache are: the kernel then forgets the files of the whole machine.
    pub cold: bool,
    /// Certificate and key for `ruled.bench.test` that the server trusts, for network.
    pub far_pem: Option<PathBuf>,
}

/// One of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bench {
    /// Create, first command, kill.
    Create,
    /// Commands on a running sandbox.
    Exec,
    /// Many creates at once.
    Burst,
    /// Many idle sandboxes.
    Idle,
    /// Files through the edge.
    Transfer,
    /// Files of every size, and many small ones.
    Files,
    /// Create and kill as fast as it goes, and at half of that.
    Sustained,
    /// Pause, resume, snapshot, fork.
    Lifecycle,
    /// Builds of templates, and sandboxes of small and large ones.
    Template,
    /// Code in the code interpreter.
    Interpreter,
    /// Requests through the edge, beside nginx.
    Edge,
    /// Costs as there is more of everything.
    Growth,
    /// Connections out of sandboxes, and policies.
    Network,
}

impl Bench {
    /// All that need nothing but the base template, from the quickest to the longest.
    pub const ALL: [Self; 11] = [
        Self::Create,
        Self::Exec,
        Self::Burst,
        Self::Sustained,
        Self::Lifecycle,
        Self::Transfer,
        Self::Files,
        Self::Edge,
        Self::Template,
        Self::Idle,
        Self::Growth,
    ];
}

/// A measurement that could not be made at all. Single failures are counted in the report instead.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The server refused what the measurement stands on.
    #[error("cannot prepare the measurement")]
    Client(#[from] ClientError),
    /// A command in a sandbox did not do what it must.
    #[error("`{command}` in sandbox {sandbox} ended with {status}")]
    Command {
        /// What was run.
        command: String,
        /// Where.
        sandbox: String,
        /// How it ended.
        status: String,
    },
    /// A template could not be built.
    #[error("a template was not built: {0}")]
    Build(String),
    /// Files came back different.
    #[error("the downloaded file is not what was uploaded: {0}")]
    Corrupt(String),
    /// A reference that runs beside ours did not work.
    #[error("cannot measure the reference: {0}")]
    Reference(String),
    /// A bundle for peers cannot be made.
    #[error("cannot prepare the peers' bundle")]
    Bundle(#[source] std::io::Error),
}

/// Makes one measurement.
///
/// # Errors
/// When it cannot be made at all.
pub async fn measure(api: &Api, bench: Bench, options: &Options) -> Result<Report, BenchError> {
    match bench {
        Bench::Create => create::run(api, options).await,
        Bench::Exec => exec::run(api, options).await,
        Bench::Burst => burst::run(api, options).await,
        Bench::Idle => idle::run(api, options).await,
        Bench::Transfer => transfer::run(api, options).await,
        Bench::Files => files::run(api, options).await,
        Bench::Sustained => sustained::run(api, options).await,
        Bench::Lifecycle => lifecycle::run(api, options).await,
        Bench::Template => template::run(api, options).await,
        Bench::Interpreter => interpreter::run(api, options).await,
        Bench::Edge => edge::run(api, options).await,
        Bench::Growth => growth::run(api, options).await,
        Bench::Network => network::run(api, options).await,
    }
}

/// Kills every sandbox that carries our label, of this run or of one that broke; returns how many.
///
/// # Errors
/// When they cannot be listed. One that cannot be killed is left to its timeout.
pub async fn sweep(api: &Api) -> Result<usize, ClientError> {
    let query = ListQuery {
        metadata: vec![(LABEL.to_owned(), "1".to_owned())],
        ..ListQuery::default()
    };
    let all = api.list_all(query, usize::MAX).await?;
    Ok(kill_all(api, all.into_iter().map(|sandbox| sandbox.sandbox_id)).await)
}

/// Kills these, some at a time; returns how many were there.
pub(crate) async fn kill_all(api: &Api, ids: impl Iterator<Item = String>) -> usize {
    const AT_ONCE: usize = 16;
    let mut kills = tokio::task::JoinSet::new();
    let mut killed = 0;
    for id in ids {
        if kills.len() >= AT_ONCE {
            killed += usize::from(matches!(kills.join_next().await, Some(Ok(true))));
        }
        let api = api.clone();
        kills.spawn(async move { api.kill(&id).await.unwrap_or(false) });
    }
    while let Some(done) = kills.join_next().await {
        killed += usize::from(matches!(done, Ok(true)));
    }
    killed
}

/// The create request of every bench.
pub(crate) fn request(template: &str) -> NewSandbox {
    let mut new = new_sandbox(template);
    new.timeout = Some(TIMEOUT_SECONDS);
    new.metadata = Some([(LABEL.to_owned(), "1".to_owned())].into());
    new
}

/// The same with a policy.
pub(crate) fn request_with(template: &str, network: SandboxNetworkConfig) -> NewSandbox {
    let mut new = request(template);
    new.network = Some(network);
    new
}

/// Creates, uses and kills some sandboxes that do not count. A server that cannot create at all is an error, not a
/// hundred failures.
pub(crate) async fn warm_up(api: &Api, options: &Options) -> Result<(), BenchError> {
    for _ in 0..WARM_UP {
        let created = create_usable(api, &request(&options.template)).await?;
        api.kill(&created.sandbox.sandbox_id).await?;
    }
    Ok(())
}

/// Runs `true` the way the SDKs run commands.
pub(crate) async fn run_true(envd: &Envd) -> Result<(), BenchError> {
    run_shell(envd, "true").await.map(|_| ())
}

/// Runs a line in the shell, and returns what it wrote to standard output.
pub(crate) async fn run_shell(envd: &Envd, command: &str) -> Result<Vec<u8>, BenchError> {
    let output = envd.run(&Start::shell(command)).await?;
    if output.end.exited && output.end.exit_code == 0 {
        return Ok(output.stdout);
    }
    Err(BenchError::Command {
        command: command.to_owned(),
        sandbox: envd.sandbox_id().to_owned(),
        status: output.end.status,
    })
}

/// A sandbox that was created, and its times.
pub(crate) struct Created {
    pub(crate) sandbox: Sandbox,
    pub(crate) envd: Envd,
    /// Until the answer to the create request.
    pub(crate) create: Duration,
    /// Until the first command had finished.
    pub(crate) usable: Duration,
    /// What the server says of the steps of the create, if it was asked.
    pub(crate) steps: Vec<(String, Duration)>,
}

/// Creates a sandbox and runs the first command in it. One that cannot run a command is killed.
pub(crate) async fn create_usable(api: &Api, request: &NewSandbox) -> Result<Created, BenchError> {
    let start = Instant::now();
    let sandbox = api.create(request).await?;
    used(api, sandbox, start, Vec::new()).await
}

/// The same, with the time of each step.
pub(crate) async fn create_traced(api: &Api, request: &NewSandbox) -> Result<Created, BenchError> {
    let start = Instant::now();
    let (sandbox, steps) = api.create_timed(request).await?;
    used(api, sandbox, start, steps).await
}

async fn used(
    api: &Api,
    sandbox: Sandbox,
    start: Instant,
    steps: Vec<(String, Duration)>,
) -> Result<Created, BenchError> {
    let create = start.elapsed();
    let envd = api.envd(&sandbox);
    if let Err(error) = run_true(&envd).await {
        // The failure that counts is the first one.
        api.kill(&sandbox.sandbox_id).await.ok();
        return Err(error);
    }
    Ok(Created {
        sandbox,
        envd,
        create,
        usable: start.elapsed(),
        steps,
    })
}

/// Why one of many failed, for the failure column.
pub(crate) fn reason(error: &BenchError) -> String {
    let error: &dyn std::error::Error = match error {
        // Its wrapper speaks of the whole measurement.
        BenchError::Client(error) => error,
        other => other,
    };
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
