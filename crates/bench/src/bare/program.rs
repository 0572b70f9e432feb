//! The program that makes sandboxes out of system calls: one for each line on its standard input.

use std::fs::{self, File};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::pipe::{PipeFlags, pipe_with};
use soulbox_linux::process;
use tempfile::TempDir;

use super::launch::{self, Place};
use super::{Answer, Steps};

/// Works until standard input ends. The caller has one thread.
///
/// # Errors
/// When nobody listens, or there is no place for files. What goes wrong with one sandbox is an answer.
pub fn run(rootfs: &Path, network: bool) -> io::Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("soulbox-bench-")
        .tempdir()?;
    for (number, line) in io::stdin().lock().lines().enumerate() {
        line?;
        // No two of them have one name: the kernel removes a link some time after the end of its network.
        let link = network.then(|| format!("sb{:x}b{:x}", std::process::id(), number % 0xffff));
        let answer = match make(&directory, rootfs, link) {
            Ok(steps) => Answer::Made(steps),
            Err(reason) => Answer::Failed(reason),
        };
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

/// Makes one, and takes away what is left of it.
fn make(directory: &TempDir, rootfs: &Path, link: Option<String>) -> Result<Steps, String> {
    let place = Place {
        rootfs: rootfs.to_owned(),
        files: directory.path().join("files"),
        link,
    };
    let made = watch(&place);
    // Dead by now: the program does nothing, and its processes are waited for.
    let removed = remove(&place.files);
    let steps = made?;
    removed.map_err(|error| format!("{}: {error}", place.files.display()))?;
    Ok(steps)
}

fn remove(files: &PathBuf) -> io::Result<()> {
    match fs::remove_dir_all(files) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The pipe is written to right before the program is executed, and closed by that.
fn watch(place: &Place) -> Result<Steps, String> {
    let failed = |error: io::Error| error.to_string();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    process::in_child(|| launch::run(place, write.into())).map_err(failed)?;
    let read = until_closed(read).map_err(failed);
    process::wait_for_children().map_err(failed)?;
    let (words, closed) = read?;
    understand(&words, closed)
}

fn until_closed(pipe: OwnedFd) -> io::Result<(String, u64)> {
    let mut words = String::new();
    File::from(pipe).read_to_string(&mut words)?;
    Ok((words, now()))
}

/// Nanoseconds on the one clock that no namespace changes.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Each line is the moment at which something was done, and its name; the first is the beginning.
fn understand(words: &str, closed: u64) -> Result<Steps, String> {
    let mut moments = Vec::new();
    for line in words.lines() {
        let moment = line
            .split_once(' ')
            .and_then(|(at, name)| Some((at.parse::<u64>().ok()?, name)));
        // Anything else is what went wrong.
        moments.push(moment.ok_or_else(|| line.to_owned())?);
    }
    if moments.is_empty() {
        return Err("it ended without a word".to_owned());
    }
    moments.push((closed, "exec"));
    let steps = moments.windows(2).filter_map(|pair| match pair {
        [(before, _), (after, name)] => Some(((*name).to_owned(), after.saturating_sub(*before))),
        _ => None,
    });
    Ok(Steps(steps.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_become_steps() {
        let steps = understand("100 begin\n150 namespaces\n400 overlay\n", 1000).unwrap();
        assert_eq!(
            steps.0,
            [
                ("namespaces".to_owned(), 50),
                ("overlay".to_owned(), 250),
                ("exec".to_owned(), 600)
            ]
        );
        assert!(understand("", 1).is_err());
        assert_eq!(
            understand("100 begin\noverlay: Operation not permitted\n", 1).unwrap_err(),
            "overlay: Operation not permitted"
        );
    }
}
