//! Generates the Connect services from our `.proto` files.
//!
//! `protox` compiles them in pure Rust, so that building needs no `protoc`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["process/process.proto", "filesystem/filesystem.proto"];
    println!("cargo:rerun-if-changed=proto");
    let set = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?
        .encode_file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?).join("envd.fds");
    fs::write(&out, set)?;
    connectrpc_build::Config::new()
        .files(&files)
        .descriptor_set(&out)
        .emit_rerun_directives(false)
        .include_file("_connectrpc.rs")
        .compile()?;
    Ok(())
}
