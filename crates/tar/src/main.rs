//! Packs and unpacks files inside the sandbox that it runs in, whatever that sandbox's image brings.
//!
//! - `soulbox-tar layer ARCHIVE DIFF_ID|- MAX_BYTES MAX_ENTRIES` lays one layer of an image over the root.
//! - `soulbox-tar files ARCHIVE DIRECTORY MAX_BYTES MAX_ENTRIES` puts files below a directory, which is made.
//! - `soulbox-tar file ARCHIVE PATH MAX_BYTES MAX_ENTRIES` puts one file to a path, or into the directory that is there.
//! - `soulbox-tar pack ARCHIVE PATH` makes an archive of what is at a path, or nothing when there is nothing.
//! - `soulbox-tar remove ARCHIVE` removes that one.
//!
//! An ARCHIVE that is read is a tar archive, as it is or compressed with gzip or zstd; its name is removed as soon as it is
//! open. DIFF_ID is the SHA-256 of the uncompressed archive, in hex. On success one line tells what was done; on failure
//! the last line of the error output is for the owner of the files.
//!
//! It runs inside, like every program whose input nobody has read: what an archive can do to it, it can do to nothing else.

mod apply;
mod open;
mod pack;

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use apply::{Done, Limits, Meaning, UnpackError};

const USAGE: &str = "usage: soulbox-tar layer ARCHIVE DIFF_ID|- MAX_BYTES MAX_ENTRIES | \
     soulbox-tar files|file ARCHIVE PATH MAX_BYTES MAX_ENTRIES | \
     soulbox-tar pack ARCHIVE PATH | soulbox-tar remove ARCHIVE";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["layer", archive, diff_id, bytes, entries] => match limits(bytes, entries) {
            Some(limits) => layer(archive, diff_id, limits),
            None => return usage(),
        },
        ["files", archive, directory, bytes, entries] => match limits(bytes, entries) {
            Some(limits) => unpack(archive, &Meaning::Files(directory.into()), limits).map(told),
            None => return usage(),
        },
        ["file", archive, path, bytes, entries] => match limits(bytes, entries) {
            Some(limits) => unpack(archive, &Meaning::File(path.into()), limits).map(told),
            None => return usage(),
        },
        ["remove", archive] => fs::remove_file(archive)
            .map(|()| String::new())
            .map_err(UnpackError::read),
        ["pack", archive, path] => pack::pack(Path::new(archive), Path::new(path)),
        _ => return usage(),
    };
    match outcome {
        Ok(told) => {
            let _reader_gone = writeln!(std::io::stdout(), "{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    say(USAGE);
    ExitCode::from(64)
}

fn say(text: &str) {
    let _reader_gone = writeln!(std::io::stderr(), "{text}");
}

fn limits(bytes: &str, entries: &str) -> Option<Limits> {
    Some(Limits {
        bytes: bytes.parse().ok()?,
        entries: entries.parse().ok()?,
    })
}

fn layer(archive: &str, diff_id: &str, limits: Limits) -> Result<String, UnpackError> {
    let meaning = match diff_id {
        "-" => Meaning::Layer,
        _ => Meaning::PromisedLayer,
    };
    let done = unpack(archive, &meaning, limits)?;
    if diff_id != "-" && diff_id != done.diff_id {
        return Err(UnpackError::WrongContent);
    }
    Ok(told(done))
}

fn unpack(archive: &str, meaning: &Meaning, limits: Limits) -> Result<Done, UnpackError> {
    let path = Path::new(archive);
    let archive = File::open(path).map_err(UnpackError::read)?;
    fs::remove_file(path).map_err(UnpackError::read)?;
    let compressed = archive.metadata().map_err(UnpackError::read)?.len();
    let root = OwnedFd::from(File::open("/").map_err(UnpackError::read)?);
    let limits = limits.for_compressed(compressed);
    apply::archive(&root, open::archive(archive)?, meaning, limits)
}

fn told(done: Done) -> String {
    let Done {
        entries,
        bytes,
        left_out,
        diff_id,
    } = done;
    format!("entries={entries} bytes={bytes} left_out={left_out} diff_id={diff_id}")
}
