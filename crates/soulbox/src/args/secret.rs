//! `soulbox secret …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::pair;

/// `soulbox secret …`. A secret is named by its ID or by its name.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Keep a value that rules of sandboxes may use, and print the secret's ID
    Create {
        /// What to call it
        name: String,
        #[command(flatten)]
        value: SecretValueArgs,
    },
    /// Give a secret another value; requests use it from the next one on
    Update {
        /// Which
        secret: String,
        #[command(flatten)]
        value: SecretValueArgs,
    },
    /// List secrets
    #[command(visible_alias = "ls")]
    List,
    /// Show one secret, without its value
    Show {
        /// Which
        secret: String,
    },
    /// Remove secrets
    #[command(visible_alias = "rm")]
    Delete {
        /// Which
        #[arg(required = true)]
        secrets: Vec<String>,
    },
}

/// The value never stands on the command line, where everybody on the machine could read it.
#[derive(Debug, Args)]
pub(crate) struct SecretValueArgs {
    /// Where the value stands; - is standard input. A line break at its end does not belong to it
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// A label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
}
