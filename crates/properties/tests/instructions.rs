//! How many instructions the pure parts of the hot paths take, by valgrind, against bounds that are committed.
//!
//! An instruction count is the same on a busy machine and on an idle one, so a bound can be narrow: what needs a tenth
//! more fails. Bounds are in `instructions.txt`; with `SOULBOX_INSTRUCTIONS=write` they are written anew, to be looked at
//! and committed. The program counts itself: started with the name of a case it does nothing but that, and the cost of
//! starting is taken off by doing it a different number of times.

#![expect(
    clippy::print_stdout,
    reason = "it is its own harness, and says what harnesses say"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request};
use soulbox_driver_linux::plan::{HostFacts, Places, SandboxFiles, launch_plan};
use soulbox_edge::decide::{Head, decide};
use soulbox_edge::rewrite::{ENVD_PORT, reserved_path, strip_hop_by_hop};
use soulbox_launch_plan::{LaunchPlan, validate};
use soulbox_types::slot::Block;
use soulbox_types::{
    EgressPolicy, LayerDigest, Limits, NetworkMode, SandboxSpec, SlotIndex, TemplateImage,
};

/// Something that is done once.
type Work = Box<dyn Fn()>;
/// Its name, and what makes it.
type Case = (&'static str, fn() -> Work);

const TIMES: u32 = 20;
/// A bound allows this many hundredths more than was counted when it was written.
const SLACK: u64 = 110;
const WRITE: &str = "SOULBOX_INSTRUCTIONS";

/// Each by its name in `instructions.txt`; made when it is wanted.
fn cases() -> [Case; 6] {
    [
        ("edge-decide-by-header", decide_by_header),
        ("edge-decide-by-host", decide_by_host),
        ("edge-rewrite", rewrite),
        ("launch-plan", plan),
        ("launch-plan-codec", codec),
        ("network-policy", policy),
    ]
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, name, times] = arguments.as_slice()
        && flag == "--do"
    {
        return carry_out(name, times);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("instructions: test");
        return ExitCode::SUCCESS;
    }
    if !asked_for(&arguments) {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out");
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIP instructions: valgrind is not installed");
        println!("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        return ExitCode::SUCCESS;
    }
    match judge() {
        Ok(()) => {
            println!("test instructions ... ok");
            println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("test instructions ... FAILED\n\nfailures:\n{reason}");
            println!(
                "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"
            );
            ExitCode::FAILURE
        }
    }
}

/// Names on the command line choose tests, as everywhere.
fn asked_for(arguments: &[String]) -> bool {
    let mut names = arguments
        .iter()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    names.peek().is_none() || names.any(|name| "instructions".contains(name.as_str()))
}

fn carry_out(name: &str, times: &str) -> ExitCode {
    let case = cases().into_iter().find(|(known, _)| *known == name);
    let (Some((_, make)), Ok(times)) = (case, times.parse::<u32>()) else {
        return ExitCode::from(64);
    };
    let work = make();
    (0..times).for_each(|_| work());
    ExitCode::SUCCESS
}

fn judge() -> Result<(), String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.txt");
    let counted: Vec<(&str, u64)> = cases()
        .into_iter()
        .map(|(name, _)| Ok((name, count(name)?)))
        .collect::<Result<_, String>>()?;
    if std::env::var(WRITE).is_ok_and(|value| value == "write") {
        let lines = counted
            .iter()
            .map(|(name, count)| format!("{name} {count}\n"));
        return std::fs::write(&file, lines.collect::<String>()).map_err(|error| error.to_string());
    }
    let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let bounds = bounds(&text)?;
    let mut wrong = Vec::new();
    for (name, count) in counted {
        let Some(bound) = bounds.get(name) else {
            wrong.push(format!("{name} has no bound"));
            continue;
        };
        println!("{name}: {count} instructions, {bound} when the bound was written");
        if count * 100 > bound * SLACK {
            wrong.push(format!(
                "{name} takes {count} instructions and took {bound}\n\
                 FIX: make it cheaper, or say in the commit why it costs more: {WRITE}=write cargo test --release -p soulbox-properties --test instructions"
            ));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

fn bounds(text: &str) -> Result<BTreeMap<&str, u64>, String> {
    let lines = text.lines();
    lines
        .map(|line| {
            let bound = line.split_once(' ');
            bound
                .and_then(|(name, count)| Some((name, count.parse().ok()?)))
                .ok_or_else(|| format!("not a bound: {line}"))
        })
        .collect()
}

/// Instructions of one time.
fn count(name: &str) -> Result<u64, String> {
    let (few, many) = (instructions(name, 1)?, instructions(name, 1 + TIMES)?);
    Ok(many.saturating_sub(few) / u64::from(TIMES))
}

fn instructions(name: &str, times: u32) -> Result<u64, String> {
    let itself = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(itself)
        .args(["--do", name, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("valgrind {name}: {}\n{said}", output.status)),
    }
}

fn request(host: &'static str, headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::builder()
        .method("POST")
        .uri("/process.Process/Start")
        .header(HOST, host)
        .header("content-type", "application/connect+json")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("x-access-token", "0123456789abcdef0123456789abcdef")
        .header("user-agent", "e2b-python-sdk/2.0.0")
        .body(())
        .expect("a request");
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(*name, HeaderValue::from_static(value));
    }
    request
}

fn decide_by_header() -> Work {
    let request = request(
        "localhost:3000",
        &[
            ("e2b-sandbox-id", "iabcdefghij0123456789"),
            ("e2b-sandbox-port", "49983"),
        ],
    );
    Box::new(move || {
        std::hint::black_box(decide(None, Head::of(&request)));
    })
}

fn decide_by_host() -> Work {
    let request = request("8080-iabcdefghij0123456789.sandbox.example", &[]);
    Box::new(move || {
        std::hint::black_box(decide(Some("sandbox.example"), Head::of(&request)));
    })
}

fn rewrite() -> Work {
    let headers: HeaderMap = request("localhost", &[]).headers().clone();
    Box::new(move || {
        let mut headers = headers.clone();
        strip_hop_by_hop(&mut headers);
        std::hint::black_box((headers, reserved_path(ENVD_PORT, "/process.Process/Start")));
    })
}

fn made_plan() -> impl Fn() -> LaunchPlan {
    let spec = SandboxSpec {
        id: "iabcdefghij0123456789".parse().expect("an id"),
        image: TemplateImage {
            template_id: "basebasebasebasebase".parse().expect("an id"),
            layers: (0..8)
                .map(|byte| LayerDigest::from_bytes([byte; 32]))
                .collect(),
            default_user: "user".to_owned(),
            default_workdir: None,
        },
        limits: Limits::STANDARD,
        network: NetworkMode::Internet,
        env_vars: BTreeMap::new(),
        envd_access_token: "secret".to_owned(),
        volumes: Vec::new(),
        team: None,
    };
    let slot = slot();
    let files = SandboxFiles {
        directory: PathBuf::from("/d/sandboxes/x"),
        view: PathBuf::from("/r/views/sb0/x"),
    };
    let places = Places {
        data: PathBuf::from("/d"),
        layers: PathBuf::from("/d/layers"),
        root: PathBuf::from("/d/run/root"),
        empty_file: PathBuf::from("/d/run/empty-file"),
        empty_directory: PathBuf::from("/d/run/empty"),
        sys: PathBuf::from("/d/run/sys-2"),
    };
    let entries = ["keys", "bus", "meminfo", "sys", "cpuinfo", "sys/fs/file-nr"];
    let host = HostFacts {
        cpus: (0..4).collect(),
        proc_entries: entries
            .map(str::to_owned)
            .into_iter()
            .collect::<BTreeSet<_>>(),
        limit_hierarchies: 2,
        own_disks: true,
        has_scopes: true,
        may_protect_envd: true,
        open_files_limit: 1 << 20,
    };
    move || launch_plan(&spec, slot, &files, &places, &host, &[(6, 0, 0, 0); 300])
}

fn slot() -> SlotIndex {
    SlotIndex::new(Block::new(0).expect("a block"), 3).expect("a slot")
}

fn plan() -> Work {
    let make = made_plan();
    Box::new(move || {
        std::hint::black_box(make());
    })
}

fn codec() -> Work {
    let plan = made_plan()();
    Box::new(move || {
        let bytes = plan.encode().expect("it fits");
        let read = LaunchPlan::decode(&bytes).expect("our own bytes");
        validate(&read).expect("a plan of ours");
        std::hint::black_box(read);
    })
}

fn policy() -> Work {
    let cidrs = |list: &[&str]| {
        let parsed = list.iter().map(|text| text.parse().expect("a network"));
        parsed.collect::<Vec<_>>()
    };
    let policy = EgressPolicy {
        allow: cidrs(&["9.9.9.9", "9.9.9.0/24", "8.8.0.0/16", "1.1.1.1"]),
        deny: cidrs(&["0.0.0.0/0"]),
        ..EgressPolicy::default()
    };
    Box::new(move || {
        std::hint::black_box(soulbox_net::policy::render(slot(), &policy, true));
    })
}
