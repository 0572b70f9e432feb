//! Places where a server can be made to die, so that tests can see what the next server makes of it.
//!
//! A point stands between two steps that somebody outside can see: a row and a process, a file and its final name.
//! [`point!`] costs one relaxed load of an atomic number while nothing is armed, so the points are in the program that
//! users run, and what is tested is that program.
//! Only the environment variable [`VARIABLE`], read once by [`arm`], arms a point; a process that was started with it
//! inherits it to its children, so a point is reached in whichever process of a server does that step.
//!
//! What must stay true: every point in the source is in [`POINTS`] (a name that is not does not compile), and every
//! entry of [`POINTS`] is in the source exactly once (`tests/table.rs`).

mod spec;
mod table;

pub use spec::{Action, Armed, BadFault};
pub use table::{POINTS, Point};

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The environment variable that arms a point: `<point>`, `<point>:<hit>` or `<point>:<hit>:<action>`, where the hit is
/// counted from 1 in each process and the action is `kill` (the default), `sleep` or `error`.
pub const VARIABLE: &str = "SOULBOX_FAULT";

/// No point has this number.
const NONE: usize = usize::MAX;
/// How long `sleep` sleeps: long enough for anybody to kill the process from outside.
const SLEEP: Duration = Duration::from_secs(3600);

/// The number of the armed point.
static ARMED: AtomicUsize = AtomicUsize::new(NONE);
static ACTION: AtomicUsize = AtomicUsize::new(0);
/// Hits that pass before something happens.
static TO_PASS: AtomicU64 = AtomicU64::new(0);

/// A step that may be the last one: `fault::point!("create.row-inserted")`.
/// As an expression `fault::point!("…", fallible)` is an [`io::Result`] that `?` can be put behind.
#[macro_export]
macro_rules! point {
    ($name:literal) => {{
        const NUMBER: usize = $crate::number($name);
        $crate::reach(NUMBER);
    }};
    ($name:literal, fallible) => {{
        const NUMBER: usize = $crate::fallible_number($name);
        $crate::reach_fallible(NUMBER)
    }};
}

/// The place of a name in [`POINTS`]; at compile time, in [`point!`].
///
/// # Panics
/// When the name is not there, which is an error of the compilation.
#[must_use]
#[expect(clippy::panic, reason = "at compile time: a wrong name does not build")]
pub const fn number(name: &str) -> usize {
    match table::find(name) {
        Some(number) if !POINTS[number].fallible => number,
        Some(_) => panic!("this point is fallible: say so in point!"),
        None => panic!("no such point in the table of soulbox-fault"),
    }
}

/// The same for points that can also fail.
///
/// # Panics
/// When the name is not there, which is an error of the compilation.
#[must_use]
#[expect(clippy::panic, reason = "at compile time: a wrong name does not build")]
pub const fn fallible_number(name: &str) -> usize {
    match table::find(name) {
        Some(number) if POINTS[number].fallible => number,
        Some(_) => panic!("this point is not fallible"),
        None => panic!("no such point in the table of soulbox-fault"),
    }
}

/// Arms the point that the environment names. To be called first thing in `main`. What it returns is to be shown loudly.
///
/// # Errors
/// When the variable names no point, or not in the right form: nobody must believe that something is armed when nothing is.
pub fn arm() -> Result<Option<Armed>, BadFault> {
    let Some(text) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let armed: Armed = text.to_string_lossy().parse()?;
    TO_PASS.store(armed.hit - 1, Ordering::Relaxed);
    ACTION.store(armed.action as usize, Ordering::Relaxed);
    ARMED.store(armed.number, Ordering::Release);
    Ok(Some(armed))
}

/// What [`point!`] does at run time.
#[inline]
pub fn reach(number: usize) {
    if ARMED.load(Ordering::Relaxed) == number {
        // An infallible point cannot be armed with an error.
        let _infallible = strike(number);
    }
}

/// What a fallible [`point!`] does at run time.
///
/// # Errors
/// When the point is armed with `error`.
#[inline]
pub fn reach_fallible(number: usize) -> io::Result<()> {
    if ARMED.load(Ordering::Relaxed) == number {
        return strike(number);
    }
    Ok(())
}

#[cold]
fn strike(number: usize) -> io::Result<()> {
    let passed = TO_PASS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    });
    if passed.is_ok() {
        return Ok(());
    }
    match Action::from_number(ACTION.load(Ordering::Acquire)) {
        Action::Kill => die(),
        Action::Sleep => {
            std::thread::sleep(SLEEP);
            Ok(())
        }
        Action::Error => {
            // Once: what follows is how the error is dealt with.
            ARMED.store(NONE, Ordering::Relaxed);
            let name = POINTS[number].name;
            Err(io::Error::other(format!(
                "made to fail at {name} by {VARIABLE}"
            )))
        }
    }
}

/// As a crash: nothing is dropped, flushed or said.
fn die() -> ! {
    loop {
        // Cannot fail: a process may always signal itself. If it did, going on would make a test pass that should not.
        if rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .is_err()
        {
            std::process::abort();
        }
        std::thread::sleep(SLEEP);
    }
}
