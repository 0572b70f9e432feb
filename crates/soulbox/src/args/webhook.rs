//! `soulbox webhook …`

use clap::{Args, Subcommand};

/// `soulbox webhook …`. A webhook is named by its ID, or by its name when no other has it.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Want an address to be told of events, and print the webhook's ID
    Create(CreateWebhookArgs),
    /// List webhooks
    #[command(visible_alias = "ls")]
    List,
    /// Show one webhook
    Show {
        /// Which
        webhook: String,
    },
    /// Change a webhook; what is not named stays
    Update(UpdateWebhookArgs),
    /// Remove webhooks with their deliveries
    Rm {
        /// Which
        #[arg(required = true)]
        webhooks: Vec<String>,
    },
    /// Show what became of a webhook's deliveries, newest first
    Deliveries {
        /// Which
        webhook: String,
        /// At most this many
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        /// So many of the newest are left out
        #[arg(long, default_value_t = 0)]
        offset: u32,
    },
}

/// `soulbox webhook create`
#[derive(Debug, Args)]
pub(crate) struct CreateWebhookArgs {
    /// Where deliveries go
    pub(crate) url: String,
    /// What to call it [default: the URL's host]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Types of events, separated by commas: created, updated, paused, resumed, checkpointed, forked, killed [default: all]
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    pub(crate) events: Vec<String>,
    /// Where the secret that deliveries are signed with stands; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: std::path::PathBuf,
    /// Without deliveries at first
    #[arg(long)]
    pub(crate) disabled: bool,
}

/// `soulbox webhook update`
#[derive(Debug, Args)]
pub(crate) struct UpdateWebhookArgs {
    /// Which
    pub(crate) webhook: String,
    /// Where deliveries go from now on
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// What it is called from now on
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Types of events from now on, as for `create`
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    pub(crate) events: Option<Vec<String>>,
    /// Where another secret stands; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<std::path::PathBuf>,
    /// Send deliveries (again)
    #[arg(long, conflicts_with = "disable")]
    pub(crate) enable: bool,
    /// Send none until it is enabled again
    #[arg(long)]
    pub(crate) disable: bool,
}
