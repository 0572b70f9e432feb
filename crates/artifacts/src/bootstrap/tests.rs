//! The whole bootstrap with a tool that makes a tiny tree in milliseconds: death between any two steps, two at once,
//! failures. The real tool is run by `make test`.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// What mmdebstrap would leave, as far as [`finish`] looks. The tree is the argument after the suite.
const FAKE: &str = r#"#!/bin/sh
set -e
while [ "$1" != trixie ] && [ "$1" != bookworm ]; do shift; done
suite=$1 root=$2
echo run >>"$(dirname "$0")/runs"
echo "2 newly installed"
if [ -e "$(dirname "$0")/fail-$suite" ]; then cat "$(dirname "$0")/fail-$suite"; exit 25; fi
mkdir -p "$root/proc" "$root/sys" "$root/dev/pts" "$root/run" "$root/tmp" "$root/etc" "$root/usr/bin" "$root/var/lib/dpkg"
ln -s usr/bin "$root/bin"
for name in sh bash python3 python node git sudo curl; do printf '#!' >"$root/usr/bin/$name"; chmod 755 "$root/usr/bin/$name"; done
touch "$root/etc/resolv.conf" "$root/etc/hosts" "$root/etc/machine-id" "$root/dev/null"
echo sandbox >"$root/etc/hostname"
echo "user:x:1000:1000::/home/user:/bin/bash" >"$root/etc/passwd"
printf 'Package: bash\nStatus: install ok installed\nVersion: 5\n\n' >"$root/var/lib/dpkg/status"
echo "Setting up bash"
"#;

struct Bench {
    _dir: tempfile::TempDir,
    artifacts: Artifacts,
    fake: PathBuf,
}

/// Function pointers cannot capture, so the fake tool's directory is found through the data directory.
fn gather(data_dir: &Path) -> Result<HostFacts, ArtifactError> {
    Ok(HostFacts {
        is_root: true,
        architecture: "x86_64",
        mmdebstrap: data_dir.parent().map(|dir| dir.join("fake")),
        setpriv: Some("/unused".into()),
        unshare: Some("/unused".into()),
        keyrings: vec![("/k".into(), Suite::ALL.to_vec())],
        free_mib: 1 << 20,
        ..HostFacts::default()
    })
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("fake");
        fs::write(&fake, FAKE).unwrap();
        fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).unwrap();
        let artifacts = Artifacts::open(&dir.path().join("data")).unwrap();
        Self {
            _dir: dir,
            artifacts,
            fake,
        }
    }

    fn run_with(
        &self,
        options: &BootstrapOptions,
        after: fn(Step) -> Result<(), ArtifactError>,
    ) -> Result<TemplateManifest, ArtifactError> {
        let mut progress = |_| ();
        Bootstrap {
            gather,
            confine: false,
            after,
            ..Bootstrap::new(&self.artifacts, options, &mut progress)
        }
        .run()
    }

    fn run(&self) -> Result<TemplateManifest, ArtifactError> {
        self.run_with(&BootstrapOptions::default(), |_| Ok(()))
    }

    fn tool_runs(&self) -> usize {
        fs::read_to_string(self.fake.with_file_name("runs")).map_or(0, |text| text.lines().count())
    }

    fn fail(&self, suite: &str, output: &str) {
        fs::write(self.fake.with_file_name(format!("fail-{suite}")), output).unwrap();
    }

    /// What others may see: nothing, or something complete.
    fn assert_nothing_half(&self) {
        if let Some(manifest) = self.artifacts.manifest(BASE).unwrap() {
            self.artifacts.layers(&manifest).unwrap();
            self.artifacts.verify(&manifest, &mut |_| ()).unwrap();
        }
    }
}

fn died(step: Step) -> ArtifactError {
    ArtifactError::Damaged {
        path: "test".into(),
        reason: format!("{step:?}"),
    }
}

#[test]
fn built_once_then_found() {
    let bench = Bench::new();
    let manifest = bench.run().unwrap();
    assert_eq!(
        (manifest.name.as_str(), manifest.distribution.as_str()),
        ("base", "debian 13 (trixie)")
    );
    assert_eq!(manifest.packages, ["bash=5"]);
    bench.assert_nothing_half();
    let layer = bench.artifacts.layers(&manifest).unwrap().remove(0);
    assert_eq!(
        fs::read_dir(layer.join("dev")).unwrap().count(),
        0,
        "mount points are emptied"
    );
    assert_eq!(bench.run().unwrap(), manifest);
    assert_eq!(bench.tool_runs(), 1);
    assert!(
        !bench
            .artifacts
            .data_dir()
            .join("tmp/bootstrap-base")
            .exists()
    );
}

#[test]
fn death_after_any_step_is_survived() {
    macro_rules! die_after {
        ($($step:ident: $runs:literal),*) => {
            [$((Step::$step, $runs, (|step| if step == Step::$step { Err(died(step)) } else { Ok(()) }) as fn(Step) -> _)),*]
        };
    }
    // The number: how often the tool has run when the second attempt is done.
    let steps = die_after![
        Locked: 1, Checked: 1, Fetched: 1, Built: 2, Recorded: 1, Finished: 1, Hashed: 1, MarkerWritten: 1,
        LayerPlaced: 2, ManifestWritten: 1
    ];
    for (step, runs, after) in steps {
        let bench = Bench::new();
        let error = bench
            .run_with(&BootstrapOptions::default(), after)
            .unwrap_err();
        assert_eq!(error.to_string(), died(step).to_string());
        bench.assert_nothing_half();
        bench.run().unwrap();
        bench.assert_nothing_half();
        assert_eq!(bench.tool_runs(), runs, "{step:?}");
    }
}

#[test]
fn an_older_release_when_the_newest_cannot_be_had() {
    let bench = Bench::new();
    bench.fail(
        "trixie",
        "E: The repository 'http://mirror trixie Release' does not have a Release file.\n",
    );
    assert_eq!(bench.run().unwrap().distribution, "debian 12 (bookworm)");
}

#[test]
fn other_failures_end_it_and_show_the_output() {
    let bench = Bench::new();
    bench.fail("trixie", "dpkg: error processing package nodejs\n");
    let error = bench.run().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("error processing package nodejs"),
        "{error}"
    );
    assert!(error.fix().is_some());
    assert_eq!(bench.artifacts.manifest(BASE).unwrap(), None);
    fs::remove_file(bench.fake.with_file_name("fail-trixie")).unwrap();
    bench.run().unwrap();
}

#[test]
fn a_tree_without_what_sandboxes_need_is_refused() {
    let bench = Bench::new();
    let script = FAKE.replace(
        "sh bash python3 python node git sudo curl",
        "sh bash python3 python git sudo curl",
    );
    fs::write(&bench.fake, script).unwrap();
    let error = bench.run().unwrap_err();
    assert!(
        matches!(
            error,
            ArtifactError::Incomplete {
                what: "usr/bin/node"
            }
        ),
        "{error}"
    );
    assert_eq!(bench.artifacts.manifest(BASE).unwrap(), None);
}

#[test]
fn two_at_once_build_once() {
    static BUILT: AtomicU32 = AtomicU32::new(0);
    let bench = Bench::new();
    let count: fn(Step) -> Result<(), ArtifactError> = |step| {
        BUILT.fetch_add(u32::from(step == Step::Built), Ordering::Relaxed);
        Ok(())
    };
    let manifests: Vec<TemplateManifest> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| bench.run_with(&BootstrapOptions::default(), count).unwrap()))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(manifests.iter().all(|m| *m == manifests[0]));
    assert_eq!((BUILT.load(Ordering::Relaxed), bench.tool_runs()), (1, 1));
}

#[test]
fn a_damaged_template_is_made_again() {
    let bench = Bench::new();
    let manifest = bench.run().unwrap();
    fs::write(
        bench
            .artifacts
            .layer_path(&manifest.layers[0])
            .join("planted"),
        b"",
    )
    .unwrap();
    assert_eq!(
        bench.run().unwrap().layers,
        manifest.layers,
        "the fake tool makes the same tree every time"
    );
    bench.assert_nothing_half();
    assert_eq!(bench.tool_runs(), 2);
}

#[test]
fn rebuilding_replaces_what_verification_refused() {
    let bench = Bench::new();
    let manifest = bench.run().unwrap();
    fs::write(
        bench
            .artifacts
            .layer_path(&manifest.layers[0])
            .join("etc/passwd"),
        b"root::0:0::/:/bin/sh",
    )
    .unwrap();
    assert!(bench.artifacts.verify(&manifest, &mut |_| ()).is_err());
    let options = BootstrapOptions {
        rebuild: true,
        ..BootstrapOptions::default()
    };
    bench.run_with(&options, |_| Ok(())).unwrap();
    bench.assert_nothing_half();
}

#[test]
fn taken_over_from_another_data_directory() {
    let (here, there) = (Bench::new(), Bench::new());
    let options = BootstrapOptions {
        from: Some(there.artifacts.data_dir().into()),
        ..BootstrapOptions::default()
    };
    let error = here.run_with(&options, |_| Ok(())).unwrap_err();
    assert!(
        matches!(error, ArtifactError::NothingToImport { .. }),
        "{error}"
    );
    let manifest = there.run().unwrap();
    assert_eq!(here.run_with(&options, |_| Ok(())).unwrap(), manifest);
    here.assert_nothing_half();
    assert_eq!(here.tool_runs(), 0);
}

#[test]
fn a_takeover_of_altered_content_is_refused() {
    let (here, there) = (Bench::new(), Bench::new());
    let manifest = there.run().unwrap();
    fs::write(
        there
            .artifacts
            .layer_path(&manifest.layers[0])
            .join("etc/passwd"),
        b"root::0:0::/:/bin/sh",
    )
    .unwrap();
    let options = BootstrapOptions {
        from: Some(there.artifacts.data_dir().into()),
        ..BootstrapOptions::default()
    };
    let error = here.run_with(&options, |_| Ok(())).unwrap_err();
    assert!(
        matches!(error, ArtifactError::LayerAltered { .. }),
        "{error}"
    );
    assert_eq!(here.artifacts.manifest(BASE).unwrap(), None);
}

#[test]
fn mounts_are_found_by_name() {
    let text = "22 1 8:1 / / rw - ext4 /dev/sda rw\n\
        30 22 0:5 / /d/tmp/work/rootfs/proc rw - proc proc rw\n\
        31 22 0:5 / /d/tmp/work/rootfs/with\\040space rw - tmpfs tmpfs rw\n\
        32 22 0:5 / /d/tmp/workshop rw - tmpfs tmpfs rw\n";
    let below = mounts_below(text, Path::new("/d/tmp/work"));
    assert_eq!(
        below,
        [
            Path::new("/d/tmp/work/rootfs/with space"),
            Path::new("/d/tmp/work/rootfs/proc")
        ]
    );
}
