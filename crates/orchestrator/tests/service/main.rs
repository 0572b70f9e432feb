//! The orchestrator over a real database and a fake driver, with a clock that only the test turns.

// Said here although it always holds: it tells the lints that this is test code throughout.
#[cfg(test)]
mod branch;
#[cfg(test)]
mod common;
#[cfg(test)]
mod hibernation;
mod life;
#[cfg(test)]
mod pause;
mod recovery;
