//! Builds of templates: what a step costs beside its command, what the cache saves, and whether the size of a template
//! shows when sandboxes are made of it.

use std::time::{Duration, Instant};

use soulbox_api_types::build::{BuildStatus, NewTemplateBuild, StartTemplateBuild, TemplateStep};
use soulbox_client::Api;

use crate::report::{Bound, Target};
use crate::run::{BenchError, Options, create_usable, reason, request};
use crate::stats::Samples;
use crate::{Report, ratio};

/// Builds of each kind, and creates of each size.
const ROUNDS: u32 = 5;
const CREATES: u32 = 30;
const STEPS: u32 = 20;
const SMALL_MIB: u32 = 200;
const LARGE_MIB: u32 = 2048;
/// How often a build is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let mut made = Vec::new();
    let outcome = measure(api, options, &mut made).await;
    for template in made {
        // One that stays is seen in the list of templates.
        api.delete_template(&template).await.ok();
    }
    outcome
}

async fn measure(
    api: &Api,
    options: &Options,
    made: &mut Vec<String>,
) -> Result<Report, BenchError> {
    let mut report = Report::new("template");
    builds(api, options, made, &mut report).await?;
    sizes(api, options, made, &mut report).await?;
    Ok(report)
}

async fn builds(
    api: &Api,
    options: &Options,
    made: &mut Vec<String>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let name = name("steps");
    let [mut whole, mut last, mut cached] = [(); 3].map(|()| Samples::new());
    for round in 0..options.count.unwrap_or(ROUNDS) {
        let steps = |end: &str| -> Vec<String> {
            let line = |step: u32| match step {
                STEPS => format!("true; : {name} {round} {end}"),
                step => format!("true; : {name} {round} {step}"),
            };
            (1..=STEPS).map(line).collect()
        };
        whole.add(build(api, options, &name, steps("first"), made).await?);
        last.add(build(api, options, &name, steps("other"), made).await?);
        cached.add(build(api, options, &name, steps("other"), made).await?);
    }
    let per_step = whole.distribution().p50_ms / f64::from(STEPS);
    report.timing(format!("build of {STEPS} steps `true`"), &whole, None);
    report.figure(
        "of that for each step (p50)",
        per_step,
        "ms",
        Some(Bound::AtMost(100.0)),
    );
    report.timing("again with another last step", &last, None);
    report.timing("again, all cached", &cached, Some(Target::p50(1000.0)));
    Ok(())
}

async fn sizes(
    api: &Api,
    options: &Options,
    made: &mut Vec<String>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let mut sized = Vec::new();
    for mib in [SMALL_MIB, LARGE_MIB] {
        let name = name(&format!("{mib}-mib"));
        let line = format!("head -c {mib}M /dev/urandom > /home/user/file");
        let took = build(api, options, &name, vec![line], made).await?;
        let seconds = took.as_secs_f64();
        report.figure(
            format!("build that writes {mib} MiB of random"),
            seconds,
            "s",
            None,
        );
        sized.push((mib, name, Samples::new()));
    }
    // In turn: a noisy moment of the machine meets both.
    for _ in 0..CREATES {
        for (_, name, samples) in &mut sized {
            match create_usable(api, &request(name)).await {
                Ok(created) => {
                    samples.add(created.usable);
                    api.kill(&created.sandbox.sandbox_id).await?;
                }
                Err(error) => samples.fail(&reason(&error)),
            }
        }
    }
    for (mib, _, samples) in &sized {
        report.timing(
            format!("create + first command, template of {mib} MiB"),
            samples,
            None,
        );
    }
    if let [(_, _, small), (_, _, large)] = sized.as_slice() {
        report.ratio(
            format!("create, {LARGE_MIB} MiB / {SMALL_MIB} MiB (p50)"),
            ratio::of_medians(large, small),
            Some(1.2),
        );
    }
    Ok(())
}

/// A name that no other run has at the same time.
pub(crate) fn name(of: &str) -> String {
    format!("bench-{}-{of}", std::process::id())
}

/// Builds a template of these commands and returns how long it took, from the request to the moment it can be used.
pub(crate) async fn build(
    api: &Api,
    options: &Options,
    name: &str,
    commands: Vec<String>,
    made: &mut Vec<String>,
) -> Result<Duration, BenchError> {
    let begun = Instant::now();
    let wanted = NewTemplateBuild {
        name: Some(name.to_owned()),
        ..NewTemplateBuild::default()
    };
    let requested = api.request_build(&wanted).await?;
    let (template, build) = (requested.template_id, requested.build_id);
    if !made.contains(&template) {
        made.push(template.clone());
    }
    let step = |command: String| TemplateStep {
        r#type: "RUN".to_owned(),
        args: vec![command],
        ..TemplateStep::default()
    };
    let what = StartTemplateBuild {
        from_template: Some(options.template.clone()),
        steps: commands.into_iter().map(step).collect(),
        ..StartTemplateBuild::default()
    };
    api.start_build(&template, &build, &what).await?;
    loop {
        let info = api.build_status(&template, &build, 0).await?;
        match info.status {
            BuildStatus::Ready => return Ok(begun.elapsed()),
            BuildStatus::Error => {
                let why = info.reason.map(|reason| reason.message);
                return Err(BenchError::Build(why.unwrap_or_default()));
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}
