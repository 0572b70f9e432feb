//! The work of a transition, without a thought about who else wants something: the actor decides, this is carried out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use soulbox_client::startup;
use soulbox_client::{ClientError, Dial, Envd, Secret};
use soulbox_driver::{DriverError, Guest, Moments};
use soulbox_envd_proto::InitBody;
use soulbox_fault as fault;
use soulbox_store::{RecordState, SandboxRecord, SavedMemory, StoreError};
use soulbox_types::{
    EndReason, ExecutionId, MemoryId, NetworkMode, SandboxId, SandboxSpec, StartCommand,
};
use tokio::time::Instant;

use crate::live::RunningSandbox;
use crate::node::{Node, store_error};
use crate::{NewSandbox, SandboxError, instruments, reconcile, trust};

/// A kill sends signals to a cgroup and waits for its processes; ten seconds of that mean a process that the kernel
/// cannot end (uninterruptible sleep).
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// How long a template's ready command may take in a new sandbox: a little less than a create.
const STARTUP_PATIENCE: Duration = Duration::from_secs(25);
/// How long envd may take to learn who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// Where envd listens in every sandbox.
const ENVD_PORT: u16 = 49983;

/// What a sandbox's guest is to be made from.
pub(crate) fn spec(node: &Node, id: SandboxId, new: &NewSandbox) -> SandboxSpec {
    SandboxSpec {
        envd_access_token: node.tokens.envd(&id),
        id,
        image: new.image.clone(),
        limits: new.limits,
        network: new.network.clone(),
        env_vars: new.env_vars.clone(),
        volumes: new.volumes.clone(),
        team: Some(new.team.clone()),
    }
}

/// Makes the guest and writes its record. On error nothing is left.
pub(crate) async fn create(
    node: Arc<Node>,
    id: SandboxId,
    new: NewSandbox,
    moments: Moments,
) -> Result<RunningSandbox, SandboxError> {
    let begun = Instant::now();
    moments.mark("reserve");
    fault::point!("create.begun");
    let spec = spec(&node, id.clone(), &new);
    let (guest, goes_on) = first_guest(&node, &spec, new.memory.as_ref()).await?;
    fault::point!("create.guest-made");
    let unrecorded = Unrecorded {
        node: node.clone(),
        guest: Some(guest.clone()),
    };
    let made = Instant::now();
    instruments::create_phase("driver", made - begun);
    moments.mark("guest-known");
    // What it starts with runs already in memory.
    if let (Some(start), false) = (&new.start, goes_on) {
        bring_up(&guest, start).await?;
        instruments::create_phase("startup", made.elapsed());
    }
    let usable = Instant::now();
    let record = record(&node, id, new);
    if let Err(error) = node.store.insert_sandbox(&record).await {
        if let Err(kill_error) = kill_guest(guest.as_ref()).await {
            tracing::error!(sandbox.id = %record.id, error = %kill_error, "guest without record not killed; trying again later");
        } else {
            unrecorded.settled();
        }
        return Err(store_error("record a sandbox")(error));
    }
    unrecorded.settled();
    fault::point!("create.row-inserted");
    moments.mark("record");
    instruments::create_phase("record", usable.elapsed());
    instruments::create_phase("total", begun.elapsed());
    if moments.wanted() {
        // That a guest cannot say what took how long is no reason to have none.
        let of_guest = guest.moments().await.unwrap_or_default();
        moments.add(
            of_guest
                .into_iter()
                .map(|moment| (moment.at_ns, moment.done)),
        );
        moments.mark("ask-for-steps");
    }
    Ok(RunningSandbox {
        record: Arc::new(record),
        guest,
    })
}

/// Makes a guest, from memory if there is any, and says whether it goes on from that. Memory that does nothing but save time
/// is done without when it cannot be used: CRIU was taken away, or the kernel is another one.
async fn first_guest(
    node: &Arc<Node>,
    spec: &SandboxSpec,
    memory: Option<&SavedMemory>,
) -> Result<(Arc<dyn Guest>, bool), SandboxError> {
    let Some(memory) = memory else {
        return Ok((make_guest(node, spec).await?, false));
    };
    match wake(node, spec, memory).await {
        Ok(guest) => Ok((guest, true)),
        Err(error) if memory.replaceable && error.is_of_memory() => {
            let error = soulbox_telemetry::chain(&error);
            tracing::warn!(sandbox.id = %spec.id, template.id = %spec.image.template_id, error, "a template's memory cannot be used; its start command runs anew");
            Ok((make_guest(node, spec).await?, false))
        }
        Err(error) => Err(error),
    }
}

/// Has the driver make a guest. On error nothing is left.
pub(crate) async fn make_guest(
    node: &Arc<Node>,
    spec: &SandboxSpec,
) -> Result<Arc<dyn Guest>, SandboxError> {
    let trusted = trusted(node, &spec.network);
    let spec = trust::with_variables(spec, trusted.is_some());
    let made = node.driver.create(&spec).await;
    let guest = made.map_err(not_created(&spec.id))?;
    let envd = envd(&guest);
    let trusting = trusts(&envd, trusted.as_deref(), &spec);
    set_up(node, guest, trusting).await
}

/// Has the driver make a guest that goes on from the memory of another one, and tells it who it is. On error nothing is left.
async fn wake(
    node: &Arc<Node>,
    spec: &SandboxSpec,
    memory: &SavedMemory,
) -> Result<Arc<dyn Guest>, SandboxError> {
    let trusted = trusted(node, &spec.network);
    let spec = trust::with_variables(spec, trusted.is_some());
    let woken = node.driver.wake(&spec, &memory.id).await;
    let guest = woken.map_err(not_created(&spec.id))?;
    let before = envd_with(&guest, node.tokens.envd(&memory.of));
    let itself = envd(&guest);
    let introduced = async {
        before.init(&identity(&spec)).await?;
        trusts(&itself, trusted.as_deref(), &spec).await
    };
    set_up(node, guest, introduced).await
}

/// Certificates of whom programs of a guest are to trust, if there is anybody: who vouches for other sandboxes, and the
/// authority of its rules.
fn trusted(node: &Node, network: &NetworkMode) -> Option<String> {
    let rules = trust::rules(network).map(|rules| rules.authority.certificate.as_str());
    let all = node.settings.authority.as_deref().into_iter().chain(rules);
    let lines = all.map(|certificate| format!("{}\n", certificate.trim_end()));
    Some(lines.collect::<String>()).filter(|text| !text.is_empty())
}

/// Has programs of a guest trust these, if there are any.
async fn trusts(
    envd: &Envd,
    certificates: Option<&str>,
    spec: &SandboxSpec,
) -> Result<(), ClientError> {
    match certificates {
        Some(certificates) => trust::install(envd, certificates, &spec.env_vars).await,
        None => Ok(()),
    }
}

/// Tells envd of a new guest what it must know. A guest that cannot be told ends.
async fn set_up(
    node: &Arc<Node>,
    guest: Arc<dyn Guest>,
    telling: impl Future<Output = Result<(), ClientError>>,
) -> Result<Arc<dyn Guest>, SandboxError> {
    let id = &guest.spec().id;
    let told = in_time(telling).await;
    let Err(source) = told else {
        return Ok(guest);
    };
    if let Err(error) = kill_guest(guest.as_ref()).await {
        tracing::error!(sandbox.id = %id, error = %soulbox_telemetry::chain(&error), "guest that was not introduced not killed; trying again later");
        reconcile::give_up(node, guest.clone());
    }
    Err(not_created(id)(source))
}

/// What envd is told, within a deadline.
pub(crate) async fn in_time(
    telling: impl Future<Output = Result<(), ClientError>>,
) -> Result<(), DriverError> {
    let told = tokio::time::timeout(INTRODUCTION, telling).await;
    let told = told.map_err(|_| "it does not answer".to_owned());
    let told = told.and_then(|told| told.map_err(|e| soulbox_telemetry::chain(&e)));
    told.map_err(|reason| DriverError::Envd { reason })
}

fn not_created(id: &SandboxId) -> impl Fn(DriverError) -> SandboxError + use<> {
    let id = id.clone();
    move |source| SandboxError::Create {
        id: id.clone(),
        source: Arc::new(source),
    }
}

/// Has a running guest trust the authority of other rules, and programs that it starts from now on find it.
pub(crate) async fn trust_live(
    node: &Node,
    guest: &Arc<dyn Guest>,
    network: &NetworkMode,
) -> Result<(), DriverError> {
    if trust::rules(network).is_none() || trust::rules(network) == trust::rules(&guest.network()) {
        return Ok(());
    }
    let envd = envd(guest);
    let mut spec = guest.spec().clone();
    trust::add_variables(&mut spec.env_vars);
    let telling = async {
        trusts(&envd, trusted(node, network).as_deref(), &spec).await?;
        envd.init(&identity(&spec)).await
    };
    in_time(telling).await
}

/// What envd of a guest is to know, when it was another one's.
fn identity(spec: &SandboxSpec) -> InitBody {
    InitBody {
        // Those of before stay where it gets none of its own.
        env_vars: (!spec.env_vars.is_empty()).then(|| spec.env_vars.clone()),
        access_token: Some(spec.envd_access_token.clone()),
        default_user: Some(spec.image.default_user.clone()),
        default_workdir: spec.image.default_workdir.clone(),
        timestamp: None,
        sandbox_id: Some(spec.id.to_string()),
        template_id: Some(spec.image.template_id.to_string()),
    }
}

/// The envd of a guest.
pub(crate) fn envd(guest: &Arc<dyn Guest>) -> Envd {
    envd_with(guest, guest.spec().envd_access_token.clone())
}

fn envd_with(guest: &Arc<dyn Guest>, token: String) -> Envd {
    let dialled = Arc::clone(guest);
    let dial: Dial = Arc::new(move || {
        let guest = Arc::clone(&dialled);
        Box::pin(async move { guest.dial(ENVD_PORT).await.map_err(io::Error::other) })
    });
    Envd::through(dial, guest.spec().id.as_str(), Secret::new(token))
}

/// Runs what the template wants to run from the beginning. Whether it is ready is asked only of commands that look:
/// one that sleeps would cost every create its time and tell nothing.
pub(crate) async fn bring_up(
    guest: &Arc<dyn Guest>,
    start: &StartCommand,
) -> Result<(), SandboxError> {
    let id = &guest.spec().id;
    let envd = envd(guest);
    let mut start = start.clone();
    if !startup::looks_at_something(&start.ready) {
        start.ready.clear();
    }
    startup::bring_up(&envd, &start, STARTUP_PATIENCE, &mut |note| {
        tracing::debug!(sandbox.id = %id, ?note, "startup");
    })
    .await
    .map_err(|source| SandboxError::Startup {
        id: id.clone(),
        source: Arc::new(source),
    })
}

/// A guest that nobody answers for yet. Whatever goes wrong from here, a panic included, it ends.
struct Unrecorded {
    node: Arc<Node>,
    guest: Option<Arc<dyn Guest>>,
}

impl Unrecorded {
    /// It has a record, or is dead.
    fn settled(mut self) {
        self.guest = None;
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        if let Some(guest) = self.guest.take() {
            reconcile::give_up(&self.node, guest);
        }
    }
}

/// The record of a sandbox that has become usable at this moment: from now its time runs.
fn record(node: &Node, id: SandboxId, new: NewSandbox) -> SandboxRecord {
    let started_at = node.now();
    SandboxRecord {
        id,
        team: new.team,
        template_id: new.image.template_id,
        build_id: new.build_id,
        execution_id: ExecutionId::random(),
        alias: new.alias,
        metadata: new.metadata,
        started_at,
        end_at: started_at.plus(new.timeout.min(node.settings.max_timeout)),
        on_timeout: new.on_timeout,
        auto_pause_memory: new.auto_pause_memory,
        auto_resume: new.auto_resume,
        auto_resume_timeout_seconds: new.auto_resume_timeout_seconds,
        limits: new.limits,
        envd_version: new.envd_version,
        allow_internet_access: new.allow_internet_access,
        network: new.network_json,
        allow_public_traffic: new.allow_public_traffic,
        mask_request_host: new.mask_request_host,
        https_ports: new.https_ports,
        volume_mounts: new.volume_mounts,
        state: RecordState::Running,
        pause: None,
        forked_from: new.forked_from,
    }
}

/// What there is of a sandbox that is to end.
#[derive(Debug)]
pub(crate) struct Left {
    /// None of a paused one whose files alone are kept, or whose memory is on disk.
    pub(crate) guest: Option<Arc<dyn Guest>>,
    /// Memory on disk.
    pub(crate) memory: Option<MemoryId>,
}

/// How the two halves of a kill went.
#[derive(Debug)]
pub(crate) struct Killed {
    pub(crate) record: Result<bool, StoreError>,
    pub(crate) guest: Result<(), DriverError>,
}

/// Deletes the record and ends the guest, at the same time: each is complete without the other, because whichever is
/// left over after a crash is found and removed by the reconciler.
pub(crate) async fn kill(node: Arc<Node>, id: SandboxId, reason: EndReason, left: Left) -> Killed {
    let record = async {
        let deleted = node.store.end_sandbox(&id, reason, node.now()).await;
        fault::point!("kill.row-deleted");
        deleted
    };
    let end = async {
        if let Some(memory) = &left.memory {
            node.driver.forget_memory(memory).await?;
        }
        match &left.guest {
            Some(guest) => kill_guest(guest.as_ref()).await,
            None => Ok(()),
        }
    };
    let (record, guest) = tokio::join!(record, end);
    fault::point!("kill.ended");
    Killed { record, guest }
}

/// Ends a guest, within a deadline.
pub(crate) async fn kill_guest(guest: &dyn Guest) -> Result<(), DriverError> {
    match tokio::time::timeout(KILL_DEADLINE, guest.kill()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DriverError::Host {
            operation: format!("end all processes of sandbox {}", guest.spec().id),
            source: io::Error::from(io::ErrorKind::TimedOut),
        }),
    }
}
