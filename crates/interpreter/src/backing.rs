//! The memory of a process, laid on a file: pages that it does not change are the file's from then on.
//!
//! The sandbox's memory is written to disk once and woken many times. What is a page of a file then is neither
//! written nor read: all sandboxes of the template share it, and only what a process has changed since is its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

const PAGE: usize = 4096;
/// Below this a region costs more than it saves.
const WORTH: u64 = 4 * PAGE as u64;
/// What is copied at once.
const CHUNK: usize = 256 * PAGE;
/// Regions that have other flags in `smaps` stay: stacks, what is wiped at a fork, what is locked or shared, devices.
const USUAL: [&str; 14] = [
    "rd", "wr", "ex", "mr", "mw", "me", "ac", "nr", "sd", "hg", "nh", "mg", "dw", "um",
];
/// What a region's protection is made of, as `mmap` has it.
const READ: i32 = 1;
const WRITE: i32 = 2;
const RUN: i32 = 4;
/// How often a process is asked for that was not waiting, and how long after the last time.
const TRIES: u32 = 50;
const AGAIN: Duration = Duration::from_millis(10);

/// A piece of a process's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    protection: i32,
}

/// Lays the memory of a process that waits on a new file. `Ok(false)` when the file is there already: the process goes
/// on from memory for which this was done.
///
/// Blocks for as long as it takes to write what the process has: the process stands still for that long.
///
/// # Errors
/// When the process may not be traced or never waits, and when the file cannot be written. The process goes on as it was.
pub(crate) fn lay(pid: i32, file: &Path) -> io::Result<bool> {
    let image = match File::options().write(true).create_new(true).open(file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        other => other?,
    };
    let mut outcome = Err(io::ErrorKind::WouldBlock.into());
    let mut is_used = false;
    for _ in 0..TRIES {
        outcome = lay_once(pid, &image, file, &mut is_used);
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            _ => break,
        }
    }
    // What the process has mapped already it needs.
    if outcome.is_err() && !is_used {
        drop(std::fs::remove_file(file));
    }
    outcome.map(|()| true)
}

#[cfg(target_arch = "x86_64")]
fn lay_once(pid: i32, image: &File, path: &Path, is_used: &mut bool) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;

    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let held = soulbox_linux::ptrace::Held::seize(pid)?;
    let regions = regions(&std::fs::read_to_string(format!("/proc/{pid}/smaps"))?);
    held.with_calls(|calls| {
        image.set_len(regions.iter().map(Region::length).sum())?;
        let mut offset = 0;
        for region in &regions {
            copy(held.memory(), region, image, offset)?;
            offset += region.length();
        }
        let descriptor = calls.open(&path)?;
        let mut offset = 0;
        for region in &regions {
            calls.map_over(
                [region.start, region.length()],
                region.protection,
                descriptor,
                offset,
            )?;
            *is_used = true;
            offset += region.length();
        }
        calls.close(descriptor)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn lay_once(_pid: i32, _image: &File, _path: &Path, _is_used: &mut bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes what is not empty; the rest is a hole, and reads the same.
fn copy(memory: &File, region: &Region, image: &File, offset: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < region.length() {
        let length = usize::try_from(region.length() - done).unwrap_or(usize::MAX);
        let length = length.min(buffer.len());
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        memory.read_exact_at(chunk, region.start + done)?;
        for (index, page) in chunk.chunks(PAGE).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                image.write_all_at(page, offset + done + (index * PAGE) as u64)?;
            }
        }
        done += length as u64;
    }
    Ok(())
}

impl Region {
    fn length(&self) -> u64 {
        self.end - self.start
    }
}

/// A region as `smaps` tells of it.
struct Seen {
    region: Region,
    /// Bytes that are no file's.
    own: u64,
    is_usual: bool,
}

/// Which regions may as well be the file's: those that hold pages of the process's own, and what is beside them.
///
/// A library is five regions of a file of its own, and a process has hundreds. To bring a sandbox back costs some
/// microseconds for each; neighbours of one file with one protection are one region. So what is only read counts as
/// what is run: a page that may be run besides gives nothing to code that runs here anyway.
fn regions(smaps: &str) -> Vec<Region> {
    let seen = seen(smaps);
    let layable = |seen: &&Seen| seen.is_usual && seen.region.protection & READ != 0;
    let runs = seen.chunk_by(|one, next| {
        layable(&one) && layable(&next) && one.region.end == next.region.start
    });
    let mut found = Vec::new();
    for run in runs {
        let is_worth_it = run.len() > 1 || run.iter().any(|seen| seen.own >= WORTH);
        if is_worth_it && run.iter().all(|seen| layable(&seen)) {
            found.extend(joined(run));
        }
    }
    found
}

/// Neighbours, as few as they can be.
fn joined(run: &[Seen]) -> Vec<Region> {
    let runs_code = run.iter().any(|seen| seen.region.protection & RUN != 0);
    let protection = |region: &Region| match region.protection & WRITE {
        0 if runs_code => READ | RUN,
        _ => region.protection,
    };
    let mut joined: Vec<Region> = Vec::new();
    for Seen { region, .. } in run {
        let protection = protection(region);
        match joined.last_mut() {
            Some(last) if last.protection == protection => last.end = region.end,
            _ => joined.push(Region {
                protection,
                ..*region
            }),
        }
    }
    joined
}

fn seen(smaps: &str) -> Vec<Seen> {
    let mut found = Vec::new();
    let mut current: Option<Region> = None;
    let mut own = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Anonymous:") => own = kilobytes(words.next()),
            Some("VmFlags:") => {
                let is_usual = words.all(|flag| USUAL.contains(&flag));
                found.extend(current.take().map(|region| Seen {
                    region,
                    own,
                    is_usual,
                }));
            }
            Some(first) if !first.ends_with(':') => {
                own = 0;
                current = header(first, words.next().unwrap_or_default());
            }
            _ => {}
        }
    }
    found
}

/// `7f00-7f10 rw-p …`; shared ones are none.
fn header(range: &str, access: &str) -> Option<Region> {
    let (start, end) = range.split_once('-')?;
    let bit = |letter, bit| if access.contains(letter) { bit } else { 0 };
    access.ends_with('p').then_some(Region {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        protection: bit('r', READ) | bit('w', WRITE) | bit('x', RUN),
    })
}

fn kilobytes(word: Option<&str>) -> u64 {
    word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_on_a_file() {
        let region = |header: &str, anonymous: u32, flags: &str| {
            format!("{header} 00:00 0\nSize: 40 kB\nAnonymous: {anonymous} kB\nVmFlags: {flags} \n")
        };
        let smaps = [
            // Alone, with much and with little of its own.
            region("1000-9000 rw-p 0", 32, "rd wr mr mw me ac sd"),
            region("a000-b000 rw-p 0", 12, "rd wr mr mw me ac"),
            // A library, and another above it.
            region("10000-11000 r--p 0", 0, "rd mr mw me"),
            region("11000-12000 r-xp 0", 0, "rd ex mr mw me"),
            region("12000-13000 r--p 0", 0, "rd mr mw me"),
            region("13000-14000 r--p 0", 4, "rd mr mw me ac"),
            region("14000-15000 rw-p 0", 4, "rd wr mr mw me ac"),
            region("15000-16000 rw-p 0", 4, "rd wr mr mw me ac"),
            region("16000-17000 r--p 0", 0, "rd mr mw me"),
            // Data without code.
            region("20000-21000 r--p 0", 0, "rd mr mw me"),
            region("21000-22000 rw-p 0", 0, "rd wr mr mw me ac"),
            // Shared, a stack, wiped at a fork, guard pages: neither they nor one that stands alone between them.
            region("30000-31000 rw-s 0", 32, "rd wr sh mr mw me"),
            region("31000-32000 rw-p 0", 32, "rd wr mr mw me gd ac"),
            region("32000-33000 rw-p 0", 32, "rd wr mr mw me wf"),
            region("33000-34000 ---p 0", 32, "mr mw me"),
            region("34000-35000 rw-p 0", 12, "rd wr mr mw me ac"),
        ];
        let found: Vec<_> = regions(&smaps.concat())
            .into_iter()
            .map(|region| (region.start, region.end, region.protection))
            .collect();
        let expected = [
            (0x1000, 0x9000, 3),
            (0x10000, 0x14000, 5),
            (0x14000, 0x16000, 3),
            (0x16000, 0x17000, 5),
            (0x20000, 0x21000, 1),
            (0x21000, 0x22000, 3),
        ];
        assert_eq!(found, expected);
    }

    /// A program whose memory is laid on a file goes on, with what it had, and what it changes is its own.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_process_goes_on() {
        use std::io::{BufRead as _, Write as _};
        use std::process::{Command, Stdio};

        let program = "import sys, threading\nbig = bytearray(b'x' * (8 << 20)); kept = {n: str(n) for n in range(50000)}\n\
                       threading.Thread(target=threading.Event().wait, daemon=True).start()\n\
                       for line in sys.stdin:\n    big[0] += 1; print(big[0], len(kept), kept[4999], flush=True)";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut ask = || {
            writeln!(input).unwrap();
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            line
        };
        assert_eq!(ask(), "121 50000 4999\n");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image");
        let pid = i32::try_from(child.id()).unwrap();
        let count = || {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            maps.lines().count()
        };
        let many = count();
        assert!(lay(pid, &file).unwrap());
        let before = std::fs::read(&file).unwrap();
        assert!(before.len() > 8 << 20);
        let own = || {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = rollup
                .lines()
                .find(|l| l.starts_with("Anonymous:"))
                .unwrap();
            kilobytes(line.split_ascii_whitespace().nth(1))
        };
        assert!(own() < 1 << 20, "{}", own());
        assert!(count() * 2 < many, "{} of {many}", count());
        assert_eq!(ask(), "122 50000 4999\n");
        assert!(own() < 4 << 20, "{}", own());
        // What it changes does not reach the file.
        assert!(std::fs::read(&file).unwrap() == before);
        assert!(!lay(pid, &file).unwrap());
        drop(input);
        assert!(child.wait().unwrap().success());
    }
}
