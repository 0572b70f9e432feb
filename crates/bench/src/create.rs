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

#[derive(Default)]
struct Ours {
    create: Samples,
    usable: Samples,
    kill: Samples,
    whole: Samples,
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
    beside_bare(&mut report, &ours, &bare);
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
