//! `soulbox template build`.

use std::path::PathBuf;

use clap::Args;

/// `soulbox template build`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BuildArgs {
    /// Name of the template, and of a tag behind a colon
    pub(crate) name: String,
    /// Directory with the Dockerfile and the files it copies [default: the current one; none with -f -]
    pub(crate) path: Option<PathBuf>,
    /// Dockerfile; - is standard input [default: PATH/Dockerfile]
    #[arg(long, short, value_name = "DOCKERFILE", help_heading = "Dockerfile")]
    pub(crate) file: Option<PathBuf>,
    /// A value for an ARG; may be repeated. NAME alone takes the value from here
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "Dockerfile")]
    pub(crate) build_arg: Vec<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE", help_heading = "Dockerfile")]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) from: From,
    #[command(flatten)]
    pub(crate) registry: Registry,
    /// Command that runs in every sandbox [default: CMD and ENTRYPOINT of the Dockerfile]
    #[arg(long, value_name = "COMMAND")]
    pub(crate) start_cmd: Option<String>,
    /// Command that succeeds when sandboxes can be used
    #[arg(long, value_name = "COMMAND")]
    pub(crate) ready_cmd: Option<String>,
    /// Virtual CPUs of its sandboxes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) cpu: Option<i32>,
    /// Memory of its sandboxes
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) memory: Option<i32>,
    /// A tag of the build; may be repeated [default: default]
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Do every step again
    #[arg(long)]
    pub(crate) no_cache: bool,
}

/// What to start from instead of a Dockerfile.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false, conflicts_with_all = ["path", "file", "build_arg", "target"])]
pub(crate) struct From {
    /// Make the template of an image, without a Dockerfile
    #[arg(long, value_name = "IMAGE", help_heading = "Instead of a Dockerfile")]
    pub(crate) from_image: Option<String>,
    /// Make the template of another one
    #[arg(
        long,
        value_name = "TEMPLATE",
        help_heading = "Instead of a Dockerfile"
    )]
    pub(crate) from_template: Option<String>,
    /// Make the template of a root file system: a tar archive, may be compressed with gzip
    #[arg(long, value_name = "FILE", help_heading = "Instead of a Dockerfile")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Make the template of an image in a file: an OCI layout in a tar archive
    #[arg(long, value_name = "FILE", help_heading = "Instead of a Dockerfile")]
    pub(crate) archive: Option<PathBuf>,
}

/// `soulbox template import`
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// What `soulbox template export` has written, or another OCI layout in a tar archive
    pub(crate) file: PathBuf,
    /// Name of the template, and of a tag behind a colon
    pub(crate) name: String,
    /// A tag of the build; may be repeated [default: default]
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
}

impl ImportArgs {
    /// An import is a build of nothing but the file.
    pub(crate) fn build(self) -> BuildArgs {
        BuildArgs {
            name: self.name,
            from: From {
                archive: Some(self.file),
                ..From::default()
            },
            tag: self.tag,
            ..BuildArgs::default()
        }
    }
}

/// Credentials for the registry that images come from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Registry {
    /// User at the registry of the images
    #[arg(
        long,
        value_name = "USER",
        requires = "registry_password_file",
        help_heading = "Registry"
    )]
    pub(crate) registry_user: Option<String>,
    /// File with the password: an argument could be seen by others
    #[arg(
        long,
        value_name = "FILE",
        requires = "registry_user",
        help_heading = "Registry"
    )]
    pub(crate) registry_password_file: Option<PathBuf>,
}
