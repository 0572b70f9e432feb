//! What is asked of a build, as the wire has it.

use std::fmt;

/// One build: where it starts, what it does, what runs in its sandboxes.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// Where it starts.
    pub source: Source,
    /// What it does, in order.
    pub steps: Vec<Step>,
    /// The line that runs in every sandbox from its beginning.
    pub start_cmd: Option<String>,
    /// The line that succeeds when a sandbox is ready.
    pub ready_cmd: Option<String>,
    /// Nothing is taken from the cache.
    pub force: bool,
    /// What the sandboxes of the template start with.
    pub runtime: Runtime,
}

/// Where a build starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From a template, named as the caller did.
    Template(String),
    /// From an image of a registry.
    Image {
        /// Its name, as the caller wrote it.
        reference: String,
        /// What the registry asks for.
        credentials: Option<Credentials>,
    },
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// `RUN`, `COPY`, `ENV`, `WORKDIR`, `USER`, in any case.
    pub kind: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Which uploaded files it reads.
    pub files_hash: Option<String>,
    /// From here on nothing is taken from the cache.
    pub force: bool,
}

/// What a registry asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// Name.
        username: String,
        /// Secret.
        password: String,
    },
    /// Amazon's.
    Aws {
        /// Key id.
        access_key_id: String,
        /// Secret.
        secret_access_key: String,
        /// Region.
        region: String,
    },
    /// Google's.
    Gcp {
        /// The account file's text.
        service_account_json: String,
    },
}

// Written by hand so that no log ever shows a credential.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Aws { .. } => "Aws",
            Self::Gcp { .. } => "Gcp",
        })
    }
}

/// Which promises the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// SDKs before 2.3.0: sandboxes start as `user` in its home, whatever the steps said.
    V20,
    /// Sandboxes start as the last user, in the last directory.
    V21,
}
