//! What is asked of a build, as the wire has it.

use std::collections::BTreeMap;

pub use soulbox_registry::Credentials;

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
#[derive(Debug, Clone)]
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
    /// From a Dockerfile.
    Dockerfile {
        /// What it says and what goes with it.
        recipe: Recipe,
        /// What the registries of its images ask for.
        credentials: Option<Credentials>,
    },
    /// From an uploaded archive of a root file system, by its hash.
    Rootfs(String),
    /// From an uploaded archive of an OCI image layout, by its hash.
    Archive(String),
}

/// A Dockerfile and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    /// Its text.
    pub dockerfile: String,
    /// The uploaded archive of its context.
    pub context_hash: Option<String>,
    /// Values for its ARGs.
    pub build_args: BTreeMap<String, String>,
    /// The stage that is wanted; the last one when absent.
    pub target: Option<String>,
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

/// Which promises the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// SDKs before 2.3.0: sandboxes start as `user` in its home, whatever the steps said.
    V20,
    /// Sandboxes start as the last user, in the last directory.
    V21,
}
