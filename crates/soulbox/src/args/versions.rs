//! `soulbox template …`: versions, the catalogue, comparing and carrying templates away.

use std::path::PathBuf;

use clap::Args;

/// `soulbox template rollback`
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Which template
    pub(crate) name: String,
    /// A version, a tag or the ID of a build; the version before the present one when absent
    #[arg(value_name = "VERSION")]
    pub(crate) to: Option<String>,
}

/// `soulbox template search`
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// What must be in its names, its description or its tags; everything when absent
    pub(crate) words: Vec<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) limit: u32,
}

/// `soulbox template describe`
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Which template
    pub(crate) name: String,
    /// What it is, at most 1000 characters; nothing takes away what was said
    pub(crate) text: String,
}

/// `soulbox template diff`
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Which template
    pub(crate) name: String,
    /// A version, a tag or the ID of a build
    pub(crate) from: String,
    /// The same; what is in use when absent
    pub(crate) to: Option<String>,
    /// At most this many files, largest first [default: 20, with --json 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) files: Option<u32>,
}

/// `soulbox template export`
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Which template; after a colon a version, a tag or the ID of a build [default: what is in use]
    #[arg(value_name = "NAME[:VERSION]")]
    pub(crate) name: String,
    /// Where to; - for standard output
    pub(crate) file: PathBuf,
}
