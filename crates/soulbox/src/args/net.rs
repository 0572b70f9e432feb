//! `soulbox sandbox net` and `allow`

use clap::Args;

/// `soulbox sandbox net`
#[derive(Debug, Args)]
pub(crate) struct NetArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Go on showing what comes until the sandbox ends
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only what was refused
    #[arg(long)]
    pub(crate) refused: bool,
}

/// `soulbox sandbox allow`
#[derive(Debug, Args)]
pub(crate) struct AllowArgs {
    /// The sandbox
    pub(crate) id: String,
    /// A name, *.name, an address or a network
    pub(crate) host: String,
}
