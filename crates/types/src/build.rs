//! What one build of a template hands on: to the builds that go on from it, and to its sandboxes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// As whom, where and with which environment the steps of a build run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildContext {
    /// User of the next command.
    pub user: String,
    /// Where it runs; the user's home when absent.
    pub workdir: Option<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
}

/// What runs in every sandbox of a template from its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartCommand {
    /// The line for a login shell; empty when there is only something to wait for.
    pub command: String,
    /// The line that succeeds when the sandbox is ready.
    pub ready: String,
    /// As whom, where and with what both run.
    pub context: BuildContext,
}
