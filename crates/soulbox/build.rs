//! Embeds the guest programs, so that one file is the whole product.
//!
//! They are built first, statically and for size, by `make build`; this script only finds them.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=SOULBOX_GUEST_DIR");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let default = manifest.join(format!("../../target/guest/{arch}-unknown-linux-gnu/guest"));
    let directory = env::var_os("SOULBOX_GUEST_DIR").map_or(default, PathBuf::from);
    for (variable, program) in [
        ("SOULBOX_JAIL", "soulbox-jail"),
        ("SOULBOX_ENVD", "soulbox-envd"),
        ("SOULBOX_TAR", "soulbox-tar"),
    ] {
        let path = directory.join(program);
        println!("cargo::rerun-if-changed={}", path.display());
        assert_built(&path);
        let path = path.canonicalize().expect("the file exists");
        println!("cargo::rustc-env={variable}={}", path.display());
    }
}

fn assert_built(path: &Path) {
    assert!(
        path.is_file(),
        "{} is not built. FIX: make guest",
        path.display()
    );
}
