//! Whether guests can really be written to disk here: a kernel or a CRIU of another version may look right and fail.

use std::sync::Arc;

use soulbox_types::SandboxSpec;

use crate::{Driver, DriverError, Guest};

/// The port of envd, which answers when a guest is back.
const ENVD: u16 = 49983;

/// One whole cycle with a guest that nobody uses: it is made, written to disk, brought back, asked whether it is there, and
/// ended. Takes about a second. Whoever gets an error does without; nothing is left either way.
///
/// # Errors
/// What failed, in words that go on from "guests cannot be written to disk: ".
pub async fn rehearse(driver: &dyn Driver, spec: &SandboxSpec) -> Result<(), String> {
    driver.hibernation().await?;
    let guest = driver.create(spec).await.map_err(told)?;
    let back = match write_and_read(driver, &guest).await {
        Ok(back) => back,
        Err(error) => {
            // The one that was made, or what is on disk of it.
            let killed = guest.kill().await;
            let forgotten = driver.forget(&spec.id).await;
            return Err(match killed.and(forgotten) {
                Ok(()) => told(error),
                Err(left) => format!("{}; and it is left: {}", told(error), told(left)),
            });
        }
    };
    let there = back.dial(ENVD).await.map(drop);
    back.kill().await.map_err(told)?;
    there.map_err(|error| format!("it does not answer when it is back: {error}"))
}

async fn write_and_read(
    driver: &dyn Driver,
    guest: &Arc<dyn Guest>,
) -> Result<Arc<dyn Guest>, DriverError> {
    guest.freeze().await?;
    guest.checkpoint().await?;
    driver.restore(guest.spec()).await
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
