//! Whether guests can really be written to disk here: a kernel or a CRIU of another version may look right and fail.

use soulbox_types::{MemoryId, SandboxSpec};

use crate::{Driver, DriverError};

/// The port of envd, which answers when a guest is back.
const ENVD: u16 = 49983;

/// One whole cycle with a guest that nobody uses: it is made, its memory is written to disk, it ends, and another one with
/// that memory is asked whether it is there. Takes about a second. Whoever gets an error does without; nothing is left
/// either way.
///
/// # Errors
/// What failed, in words that go on from "memory cannot be kept on disk: ".
pub async fn rehearse(driver: &dyn Driver, spec: &SandboxSpec) -> Result<(), String> {
    driver.hibernation().await?;
    let memory = MemoryId::random();
    let seen = write_and_read(driver, spec, &memory).await;
    let forgotten = driver.forget_memory(&memory).await;
    seen.and(forgotten.map_err(told))
}

async fn write_and_read(
    driver: &dyn Driver,
    spec: &SandboxSpec,
    memory: &MemoryId,
) -> Result<(), String> {
    let guest = driver.create(spec).await.map_err(told)?;
    let written = async {
        guest.freeze().await?;
        guest.capture(memory).await
    };
    let written = written.await;
    guest.kill().await.map_err(told)?;
    written.map_err(told)?;
    let back = driver.wake(spec, memory).await.map_err(told)?;
    let there = back.dial(ENVD).await.map(drop);
    back.kill().await.map_err(told)?;
    there.map_err(|error| format!("it does not answer when it is back: {error}"))
}

/// An error with its causes.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn told(error: DriverError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
