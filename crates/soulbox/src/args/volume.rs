//! `soulbox volume …`

use std::path::PathBuf;

use clap::Subcommand;

/// `soulbox volume …`. A volume is named by its name or its ID.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume and print its ID
    Create {
        /// Letters, digits, - and _
        name: String,
    },
    /// List volumes
    #[command(visible_alias = "ls")]
    List,
    /// Show what is in a directory of a volume
    Show {
        /// Which volume
        name: String,
        /// The directory
        #[arg(default_value = "/")]
        path: String,
    },
    /// Write a file of a volume to a file here
    Get {
        /// Which volume
        name: String,
        /// The file in it
        path: String,
        /// Where to; - is standard output
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Write a file from here into a volume
    Put {
        /// Which volume
        name: String,
        /// The file here
        file: PathBuf,
        /// Where to in the volume
        path: String,
    },
    /// Remove a volume with all that is in it
    Rm {
        /// Which volume
        name: String,
    },
}
