//! The operator's command that prints the key of secrets: a key management service's client, say.
//!
//! It runs while the server is still root and one thread: as root, because what may ask for the key should be no more
//! than that, and before anything else is begun, because a server without its secrets must not start.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;

use super::handover::SecretsKey;
use super::operators;
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(30);
/// A key has 64 digits; what is longer is something else. Far less than a pipe holds, so that nobody need read while the
/// command runs.
const MOST_BYTES: u64 = 4096;

/// Runs the command and gives what it has printed.
pub(super) fn run(command: &str) -> anyhow::Result<SecretsKey> {
    run_within(command, PATIENCE)
}

fn run_within(command: &str, patience: Duration) -> anyhow::Result<SecretsKey> {
    let fix = "run secrets_key_command by hand, as root; it must print 64 hexadecimal digits";
    let mut command = operators::shell(command, &[]);
    let (mut child, status) = operators::run(command.stdout(Stdio::piped()), patience, None)
        .context("cannot run secrets_key_command")?;
    let Some(status) = status else {
        let seconds = patience.as_secs();
        let failure = Failure::user(format!(
            "secrets_key_command has not ended after {seconds} s"
        ));
        return Err(failure.fix(fix).into());
    };
    if !status.success() {
        return Err(
            Failure::user(format!("secrets_key_command has failed: {status}"))
                .fix(fix)
                .into(),
        );
    }
    let mut text = String::new();
    if let Some(output) = child.stdout.take() {
        // Its own children may hold the other end for ever.
        let output = File::from(OwnedFd::from(output));
        rustix::io::ioctl_fionbio(&output, true)?;
        let read = output.take(MOST_BYTES).read_to_string(&mut text);
        match read {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    let text = text.trim().to_owned();
    if soulbox_secrets::Key::parse(&text).is_err() {
        return Err(Failure::user("secrets_key_command has printed no key")
            .fix(fix)
            .into());
    }
    Ok(SecretsKey(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_is_the_key() {
        let key = "0f".repeat(32);
        let printed = run(&format!("echo ' {key}'; sleep 100 & exit 0")).unwrap();
        assert_eq!(printed.0, key);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let refused = |command: &str| {
            let error = run_within(command, Duration::from_millis(300)).unwrap_err();
            format!("{error:#}")
        };
        assert!(refused("exit 3").contains("exit status: 3"));
        assert!(refused("echo hello").contains("no key"));
        assert!(refused("true").contains("no key"));
        assert!(refused("sleep 60").contains("has not ended"));
        assert!(refused("yes").contains("has not ended"));
        assert!(!refused("echo hidden").contains("hidden"));
    }
}
