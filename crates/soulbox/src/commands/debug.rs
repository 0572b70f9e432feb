//! `soulbox debug`: the steps that turn a process into a sandbox on this host, what its filter lets through, and where a
//! server can be made to die.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use soulbox_artifacts::Artifacts;
use soulbox_driver_linux::seccomp;
use soulbox_types::slot::Block;
use soulbox_types::{NetworkMode, SandboxId, SandboxSpec, SlotIndex, TemplateId, TemplateImage};

use crate::failure::Failure;
use crate::output::Output;

#[derive(Serialize)]
struct Plans {
    slot: Vec<String>,
    launch: Vec<String>,
}

pub(crate) fn plan(data_dir: &Path, template: &str, output: Output) -> Result<(), Failure> {
    let spec = example(data_dir, template)?;
    let slot = Block::new(0)
        .and_then(|block| SlotIndex::new(block, 0))
        .ok_or_else(|| Failure::internal("there is no first slot"))?;
    let (slot, launch) =
        soulbox_driver_linux::plans_for(&spec, data_dir, slot).map_err(|error| {
            Failure::user("cannot plan a sandbox on this host")
                .because(error)
                .fix("soulbox doctor")
        })?;
    let lines = |text: String| text.lines().map(str::to_owned).collect();
    let plans = Plans {
        slot: lines(slot.to_string()),
        launch: lines(launch.to_string()),
    };
    output.show(&plans, |plans| {
        format!(
            "# ahead of time, once per slot\n{}\n\n# when a sandbox is created\n{}",
            plans.slot.join("\n"),
            plans.launch.join("\n")
        )
    })
}

#[derive(Serialize)]
struct Filter {
    architecture: &'static str,
    calls: Vec<FilteredCall>,
    sockets: Vec<FilteredSocket>,
}

#[derive(Serialize)]
struct FilteredCall {
    number: u32,
    name: &'static str,
    /// What is asked of the arguments, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<&'static str>,
}

#[derive(Serialize)]
struct FilteredSocket {
    family: u32,
    name: &'static str,
    types: &'static [u32],
    protocols: &'static [u32],
}

/// `soulbox debug filter`: what the filter of system calls lets through. Everything else is refused.
pub(crate) fn filter(output: Output) -> Result<(), Failure> {
    let calls = seccomp::listing().into_iter().map(|call| FilteredCall {
        number: call.number,
        name: call.name,
        condition: call.check.map(seccomp::Check::condition),
    });
    let sockets = seccomp::SOCKETS.iter().map(|rule| FilteredSocket {
        family: rule.family,
        name: rule.name,
        types: rule.types,
        protocols: rule.protocols,
    });
    let filter = Filter {
        architecture: std::env::consts::ARCH,
        calls: calls.collect(),
        sockets: sockets.collect(),
    };
    output.show(&filter, |filter| {
        let calls = filter.calls.iter().map(|call| {
            let condition = call.condition.map(|text| format!(" ({text})"));
            format!(
                "{:4} {}{}",
                call.number,
                call.name,
                condition.unwrap_or_default()
            )
        });
        let sockets = filter.sockets.iter().map(|rule| {
            format!(
                "{} types {:?} protocols {:?}",
                rule.name, rule.types, rule.protocols
            )
        });
        calls.chain(sockets).collect::<Vec<_>>().join("\n")
    })
}

#[derive(Serialize)]
struct FaultPoint {
    name: &'static str,
    situation: &'static str,
    fallible: bool,
}

/// `soulbox debug fault-points`: where a server can be made to die.
pub(crate) fn fault_points(output: Output) -> Result<(), Failure> {
    let points: Vec<FaultPoint> = soulbox_fault::POINTS
        .iter()
        .map(|point| FaultPoint {
            name: point.name,
            situation: point.situation,
            fallible: point.fallible,
        })
        .collect();
    output.show(&points, |points| {
        let lines = points.iter().map(|point| {
            let error = if point.fallible {
                " (can also fail)"
            } else {
                ""
            };
            format!("{:32} {}{error}", point.name, point.situation)
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn example(data_dir: &Path, template: &str) -> Result<SandboxSpec, Failure> {
    let cannot =
        |error| Failure::user("cannot read the templates").because(anyhow::Error::from(error));
    let artifacts = Artifacts::open(data_dir).map_err(cannot)?;
    let manifest = artifacts
        .manifest(template)
        .map_err(cannot)?
        .ok_or_else(|| {
            Failure::user(format!(
                "there is no template {template} in {}",
                data_dir.display()
            ))
            .fix(format!("soulbox template bootstrap {template}"))
        })?;
    Ok(SandboxSpec {
        id: SandboxId::random(),
        image: TemplateImage {
            template_id: TemplateId::random(),
            layers: manifest.layers,
            default_user: manifest.default_user,
            default_workdir: manifest.default_workdir,
        },
        limits: manifest.limits,
        network: NetworkMode::Internet,
        env_vars: BTreeMap::new(),
        envd_access_token: String::new(),
        volumes: Vec::new(),
        team: None,
    })
}
