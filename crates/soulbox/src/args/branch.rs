//! `soulbox sandbox fork|snapshot` and `soulbox snapshot …`

use clap::{Args, Subcommand};

/// `soulbox sandbox fork`
#[derive(Debug, Args)]
pub(crate) struct ForkArgs {
    /// The sandbox; it goes on
    pub(crate) id: String,
    /// How many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub(crate) count: i32,
    /// Seconds that each of them runs
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: i32,
    /// Only its files: each starts anew
    #[arg(long)]
    pub(crate) files_only: bool,
}

/// `soulbox sandbox snapshot`
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The sandbox; it goes on
    pub(crate) id: String,
    /// What it is called; a snapshot without a name is reached by its ID
    #[arg(long, value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
    /// Only its files: what is created from it starts anew
    #[arg(long)]
    pub(crate) files_only: bool,
}

/// `soulbox snapshot …`
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// List snapshots: the newest of each name
    #[command(visible_alias = "ls")]
    List {
        /// Only of this sandbox
        #[arg(long, value_name = "ID")]
        sandbox: Option<String>,
    },
    /// Delete snapshots, each with all that has the same name
    Rm {
        /// As `soulbox snapshot list` shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}
