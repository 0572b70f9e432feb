//! Create, first command, kill; one sandbox at a time. The bare system calls of a sandbox, and peers, when wanted, take
//! turns with ours in every round, so that a noisy moment of the machine meets all alike.

use std::time::{Duration, Instant};

use soulbox_client::Api;

use crate::bare::Reference;
use crate::peers::{self, Peer};
use crate::report::Target;
use crate::run::{BenchError, Options, create_traced, create_usable, reason, request, warm_up};
use crate::stats::Samples;
use crate::trace::Steps;
use crate::{Report, ratio};

const ROUNDS: u32 = 100;
const COLD_ROUNDS: u32 = 10;

#[derive(Default)]
struct Ours {
    create: Samples,
    usable: Samples,
    kill: Samples,
    whole: Samples,
    closed: Samples,
    steps: Steps,
}

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let rounds = options.count.unwrap_or(ROUNDS);
    let mut report = Report::new("create");
    let bundle = bundle(options)?;
    let mut rivals: Vec<(Peer, Samples)> = Vec::new();
    if let Some(bundle) = &bundle {
        let (found, notes) = peers::find(bundle).await;
        rivals = found
            .into_iter()
            .map(|peer| (peer, Samples::new()))
            .collect();
        notes.into_iter().for_each(|note| report.note(note));
    }
    let mut bare = Reference::start(&options.rootfs, true).await;
    warm_up(api, options).await?;
    let mut ours = Ours::default();
    for _ in 0..rounds {
        round(api, options, &mut ours).await;
        ours.closed.record(closed(api, options).await);
        bare.round().await;
        for (peer, samples) in &mut rivals {
            samples.record(peer.run().await);
        }
    }
    report.timing("create (answer)", &ours.create, Some(Target::p50(8.0)));
    report.timing("create + first command", &ours.usable, None);
    report.timing("kill", &ours.kill, None);
    report.timing(
        "create + first command + kill",
        &ours.whole,
        Some(Target::p50(20.0)),
    );
    report.timing("without a way out: create (answer)", &ours.closed, None);
    beside_bare(&mut report, &ours, &bare);
    if options.cold {
        cold(api, options, &mut report).await?;
    }
    if options.trace {
        ours.steps.tell("our create", &mut report);
        let mut calls = Steps::default();
        for made in &bare.steps {
            let steps = made.0.iter();
            let steps = steps.map(|(name, ns)| (name.clone(), Duration::from_nanos(*ns)));
            calls.add(made.total(), steps.collect());
        }
        calls.tell("bare system calls", &mut report);
    }
    compare(&mut report, &ours, &rivals);
    Ok(report)
}

fn bundle(options: &Options) -> Result<Option<peers::Bundle>, BenchError> {
    if !options.peers {
        return Ok(None);
    }
    let rootfs = options.rootfs.as_ref().map_err(|reason| {
        BenchError::Reference(format!("there is no root file system for peers: {reason}"))
    })?;
    let bundle = peers::Bundle::new(rootfs).map_err(BenchError::Bundle)?;
    Ok(Some(bundle))
}

async fn round(api: &Api, options: &Options, ours: &mut Ours) {
    let start = Instant::now();
    let request = request(&options.template);
    let made = match options.trace {
        true => create_traced(api, &request).await,
        false => create_usable(api, &request).await,
    };
    let created = match made {
        Ok(created) => created,
        Err(error) => return ours.create.fail(&reason(&error)),
    };
    ours.steps.add(created.create, created.steps);
    ours.create.add(created.create);
    ours.usable.add(created.usable);
    let kill = Instant::now();
    match api.kill(&created.sandbox.sandbox_id).await {
        Ok(true) => {
            ours.kill.add(kill.elapsed());
            ours.whole.add(start.elapsed());
        }
        Ok(false) => ours.kill.fail(&"the sandbox was gone before it was killed"),
        Err(error) => ours.kill.fail(&error),
    }
}

/// The same of a sandbox that may connect to nowhere.
async fn closed(api: &Api, options: &Options) -> Result<Duration, String> {
    let mut request = request(&options.template);
    request.allow_internet_access = Some(false);
    let created = create_usable(api, &request).await;
    let created = created.map_err(|error| reason(&error))?;
    let killed = api.kill(&created.sandbox.sandbox_id).await;
    killed.map_err(|error| error.to_string())?;
    Ok(created.create)
}

/// Creates after the kernel has forgotten every file: as the first one after the machine was started.
async fn cold(api: &Api, options: &Options, report: &mut Report) -> Result<(), BenchError> {
    let mut ours = Ours::default();
    let mut bare = Reference::start(&options.rootfs, true).await;
    for _ in 0..COLD_ROUNDS {
        forget()?;
        round(api, options, &mut ours).await;
        forget()?;
        bare.round().await;
    }
    report.timing("cold page cache: create (answer)", &ours.create, None);
    report.timing(
        "cold page cache: create + first command",
        &ours.usable,
        None,
    );
    if bare.missing.is_none() {
        let name = "cold page cache: the bare system calls of a sandbox";
        report.timing(name, &bare.whole, None);
    }
    Ok(())
}

/// Has the kernel drop what it keeps of files, their names and directories: of the whole machine.
fn forget() -> Result<(), BenchError> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| {
        BenchError::Reference(format!("the page cache cannot be dropped: {error}"))
    })
}

fn beside_bare(report: &mut Report, ours: &Ours, bare: &Reference) {
    if let Some(remark) = bare.remark() {
        return report.note(remark);
    }
    report.timing("the bare system calls of a sandbox", &bare.whole, None);
    report.ratio(
        "our create / bare system calls (p50)",
        ratio::of_medians(&ours.create, &bare.whole),
        Some(1.5),
    );
}

fn compare(report: &mut Report, ours: &Ours, rivals: &[(Peer, Samples)]) {
    for (peer, samples) in rivals {
        report.timing(format!("{} run /bin/true", peer.name()), samples, None);
    }
    for (peer, theirs) in rivals {
        let name = peer.name();
        // The target names crun; the others are for orientation.
        let at_most = (name == "crun").then_some(0.6);
        report.ratio(
            format!("our create / {name} run (p50)"),
            ratio::of_medians(&ours.create, theirs),
            at_most,
        );
        report.ratio(
            format!("our create + first command / {name} run (p50)"),
            ratio::of_medians(&ours.usable, theirs),
            None,
        );
    }
}
