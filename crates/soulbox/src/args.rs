//! The command line as people type it. Declarations only: what a command does stands in [`crate::commands`].

mod analysis;
mod attach;
mod branch;
mod build;
mod net;
mod secret;
mod url;
pub(crate) mod versions;
mod volume;
mod webhook;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::METRICS_ADDRESS;
use crate::config::raw::Setting;

pub(crate) use analysis::{AnalyzeArgs, PlotArgs};
pub(crate) use attach::AttachArgs;
pub(crate) use branch::{ForkArgs, SnapshotArgs, SnapshotCommand};
pub(crate) use build::{BuildArgs, ImportArgs};
pub(crate) use net::{AllowArgs, NetArgs};
pub(crate) use secret::{SecretCommand, SecretValueArgs};
pub(crate) use url::UrlArgs;
pub(crate) use volume::VolumeCommand;
pub(crate) use webhook::{CreateWebhookArgs, UpdateWebhookArgs, WebhookCommand};

/// Sandboxes for untrusted code, on your own machine. Speaks the wire of the E2B SDKs.
#[derive(Debug, Parser)]
#[command(
    name = "soulbox",
    version,
    about,
    max_term_width = 110,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Directory of the server's state; says which server to talk to [env: SOULBOX_DATA_DIR] [default: /var/lib/soulbox]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) data_dir: Option<String>,
    /// Configuration file [env: SOULBOX_CONFIG] [default: /etc/soulbox/soulbox.toml, if it exists]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: API, traffic to sandboxes, and the sandboxes themselves
    Serve(Box<ServeArgs>),
    /// Create sandboxes, run commands in them, look at them
    #[command(subcommand, visible_alias = "sbx")]
    Sandbox(SandboxCommand),
    /// API keys of the default team
    #[command(subcommand)]
    Key(KeyCommand),
    /// Templates that sandboxes start from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// What sandboxes were saved as, for others to be created from
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Files that outlive sandboxes and that several can share
    #[command(subcommand, visible_alias = "vol")]
    Volume(VolumeCommand),
    /// Addresses that are told what happens to sandboxes
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Values that sandboxes may use and cannot read
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Say what this machine can do, which isolation is available, and what to fix
    Doctor,
    /// Measure a running server
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Look inside
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Have a running server remove the files that nothing needs any more; it does so every hour by itself
    Gc(GcArgs),
    /// Remove what the server has left on this host
    Purge(PurgeArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the certificate of the server's own authority, for clients to trust
    Ca,
    /// Fetch CRIU, which keeps the memory of sandboxes on disk, from the distribution's packages into the data directory
    Criu(CriuArgs),
    /// Makes sandboxes out of system calls, one for each line; started by `soulbox bench`
    #[command(hide = true, name = soulbox_bench::bare::COMMAND)]
    BenchBare {
        /// What they stand on
        #[arg(long)]
        rootfs: PathBuf,
        /// With a network link each
        #[arg(long)]
        network: bool,
    },
    /// The privileged process of a server; started by `soulbox serve`
    #[command(hide = true)]
    Helper {
        /// Descriptor of the socket that leads to the server
        #[arg(long)]
        socket: i32,
    },
}

/// Settings that can be given as flags. Everything is text here: it is judged together with the other layers.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeArgs {
    /// Address of the one port for everything [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Serve api.DOMAIN and <port>-<sandbox>.DOMAIN
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Certificate chain for HTTPS, PEM; needs --domain
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<String>,
    /// Private key for HTTPS, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<String>,
    /// Address for HTTPS beside the one port; needs --domain. Without a certificate, `soulbox ca` makes them
    #[arg(long, value_name = "ADDR")]
    pub(crate) tls_listen: Option<String>,
    /// Get the certificate from this ACME authority, such as https://acme-v02.api.letsencrypt.org/directory; needs
    /// --domain, --acme-dns-command and --acme-accept-terms
    #[arg(long, value_name = "URL")]
    pub(crate) acme_directory: Option<String>,
    /// Mail address that the ACME authority may write to
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) acme_contact: Option<String>,
    /// Shell command that changes your DNS, as root: called with `present NAME VALUE` and `cleanup NAME VALUE`
    #[arg(long, value_name = "COMMAND")]
    pub(crate) acme_dns_command: Option<String>,
    /// Certificates, PEM, that the ACME authority's server may have besides those that this host trusts
    #[arg(long, value_name = "FILE")]
    pub(crate) acme_ca_file: Option<String>,
    /// Accept the terms of the ACME authority [default: false]
    #[arg(long, value_name = "YES", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) acme_accept_terms: Option<String>,
    /// Serve Prometheus metrics here; off by default [default with flag: 127.0.0.1:3001]
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = METRICS_ADDRESS)]
    pub(crate) metrics_listen: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or directives [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// How log lines look: auto, human, json [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Sandboxes a team may have at once [default: 2048]
    #[arg(long, value_name = "N")]
    pub(crate) max_sandboxes_per_team: Option<String>,
    /// Longest time a sandbox may run, in hours [default: 24]
    #[arg(long, value_name = "HOURS")]
    pub(crate) max_timeout_hours: Option<String>,
    /// Builds of templates that a team may have in progress at once [default: 20]
    #[arg(long, value_name = "N")]
    pub(crate) max_builds_per_team: Option<String>,
    /// Longest time that the build of a template may take, in seconds [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) max_build_seconds: Option<String>,
    /// Most virtual CPUs that a template may ask for [default: 32]
    #[arg(long, value_name = "N")]
    pub(crate) max_vcpu: Option<String>,
    /// Most memory in MiB that a template may ask for [default: 65536]
    #[arg(long, value_name = "MIB")]
    pub(crate) max_memory_mib: Option<String>,
    /// Slots kept prepared for the next creates [default: 8]
    #[arg(long, value_name = "N")]
    pub(crate) slots_ready: Option<String>,
    /// Connections that a sandbox may have open to the network at a time [default: 4096]
    #[arg(long, value_name = "N")]
    pub(crate) max_connections_per_sandbox: Option<String>,
    /// Connections to the network that a sandbox may begin in a second [default: 1000]
    #[arg(long, value_name = "N")]
    pub(crate) new_connections_per_second: Option<String>,
    /// Connections that all sandboxes of a team may have open to the network at a time; 0 for any number [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) max_connections_per_team: Option<String>,
    /// Connections to the network that all sandboxes of a team may begin in a second; 0 for any number [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) new_connections_per_second_per_team: Option<String>,
    /// When the files of a sandbox that is paused with its memory are saved, in seconds after the pause [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) save_paused_after_seconds: Option<String>,
    /// When a sandbox that is paused with its memory goes to disk, in seconds after its files are saved [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) hibernate_after_seconds: Option<String>,
    /// How long a stop waits for sandboxes that are paused with memory to go to disk, in seconds; 0 leaves them in memory
    /// [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) hibernate_on_stop_seconds: Option<String>,
    /// DNS servers for sandboxes, separated by commas [default: the host's]
    #[arg(long, value_name = "ADDRS")]
    pub(crate) dns_upstreams: Option<String>,
    /// Whether sandboxes have IPv6: auto (where the host has it), on, off [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub(crate) ipv6: Option<String>,
    /// Registries at private addresses or without TLS that builds may pull from, separated by commas
    #[arg(long, value_name = "HOSTS")]
    pub(crate) private_registries: Option<String>,
    /// Hosts and ranges of addresses that webhooks may be at although they are not public, separated by commas
    #[arg(long, value_name = "HOSTS")]
    pub(crate) private_webhooks: Option<String>,
    /// Ranges of addresses that egress proxies of sandboxes may be at although they are not public, separated by commas
    #[arg(long, value_name = "RANGES")]
    pub(crate) private_egress_proxies: Option<String>,
    /// Shell command that prints the key of secrets, 64 hexadecimal digits [default: the file secrets.key in the data
    /// directory]
    #[arg(long, value_name = "COMMAND")]
    pub(crate) secrets_key_command: Option<String>,
    /// Certificates, PEM, that servers of header rules may have besides those that this host trusts
    #[arg(long, value_name = "FILE")]
    pub(crate) rules_ca_file: Option<String>,
    /// How long events of sandboxes are kept, in days [default: 30]
    #[arg(long, value_name = "DAYS")]
    pub(crate) events_kept_days: Option<String>,
    /// Where tokens for Amazon's registries come from [default: Amazon's address for the region]
    #[arg(long, value_name = "URL")]
    pub(crate) ecr_endpoint: Option<String>,
    /// How disks are limited: auto, project-quota, image, none [default: auto]
    #[arg(long, value_name = "HOW")]
    pub(crate) disk_backing: Option<String>,
    /// Free space in MiB on the host below which no sandbox is created [default: 1024]
    #[arg(long, value_name = "MIB")]
    pub(crate) disk_reserve_mib: Option<String>,
    /// Most that a new volume holds, in MiB [default: 10240]
    #[arg(long, value_name = "MIB")]
    pub(crate) volume_size_mib: Option<String>,
    /// Mirror that builds use in place of the servers of Debian and Ubuntu [default: none]
    #[arg(long, value_name = "URL")]
    pub(crate) mirrors_apt: Option<String>,
    /// Index of Python packages that builds use [default: none]
    #[arg(long, value_name = "URL")]
    pub(crate) mirrors_pip: Option<String>,
    /// Registry of npm packages that builds use [default: none]
    #[arg(long, value_name = "URL")]
    pub(crate) mirrors_npm: Option<String>,
    /// What is asked in place of registries of images, separated by commas [default: none]
    #[arg(long, value_name = "REGISTRY=URL")]
    pub(crate) mirrors_registries: Option<String>,
    /// Virtual CPUs where the template says nothing [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) limits_vcpu: Option<String>,
    /// Memory in MiB where the template says nothing [default: 512]
    #[arg(long, value_name = "MIB")]
    pub(crate) limits_memory_mib: Option<String>,
    /// Processes and threads where the template says nothing [default: 1024]
    #[arg(long, value_name = "N")]
    pub(crate) limits_pids: Option<String>,
    /// Disk in MiB where the template says nothing [default: 10240]
    #[arg(long, value_name = "MIB")]
    pub(crate) limits_disk_mib: Option<String>,
}

impl ServeArgs {
    /// The flags that were given, as the topmost layer of the configuration.
    pub(crate) fn layer(&self, global: &Global) -> Vec<(Setting, String)> {
        let all = [
            (Setting::DataDir, &global.data_dir),
            (Setting::Listen, &self.listen),
            (Setting::Domain, &self.domain),
            (Setting::TlsCert, &self.tls_cert),
            (Setting::TlsKey, &self.tls_key),
            (Setting::TlsListen, &self.tls_listen),
            (Setting::AcmeDirectory, &self.acme_directory),
            (Setting::AcmeContact, &self.acme_contact),
            (Setting::AcmeDnsCommand, &self.acme_dns_command),
            (Setting::AcmeCaFile, &self.acme_ca_file),
            (Setting::AcmeAcceptTerms, &self.acme_accept_terms),
            (Setting::MetricsListen, &self.metrics_listen),
            (Setting::LogLevel, &self.log_level),
            (Setting::LogFormat, &self.log_format),
            (Setting::MaxSandboxesPerTeam, &self.max_sandboxes_per_team),
            (Setting::MaxTimeoutHours, &self.max_timeout_hours),
            (Setting::MaxBuildsPerTeam, &self.max_builds_per_team),
            (Setting::MaxBuildSeconds, &self.max_build_seconds),
            (Setting::MaxVcpu, &self.max_vcpu),
            (Setting::MaxMemoryMib, &self.max_memory_mib),
            (Setting::SlotsReady, &self.slots_ready),
            (
                Setting::MaxConnectionsPerSandbox,
                &self.max_connections_per_sandbox,
            ),
            (
                Setting::NewConnectionsPerSecond,
                &self.new_connections_per_second,
            ),
            (
                Setting::MaxConnectionsPerTeam,
                &self.max_connections_per_team,
            ),
            (
                Setting::NewConnectionsPerSecondPerTeam,
                &self.new_connections_per_second_per_team,
            ),
            (
                Setting::SavePausedAfterSeconds,
                &self.save_paused_after_seconds,
            ),
            (
                Setting::HibernateAfterSeconds,
                &self.hibernate_after_seconds,
            ),
            (
                Setting::HibernateOnStopSeconds,
                &self.hibernate_on_stop_seconds,
            ),
            (Setting::DnsUpstreams, &self.dns_upstreams),
            (Setting::Ipv6, &self.ipv6),
            (Setting::PrivateRegistries, &self.private_registries),
            (Setting::PrivateWebhooks, &self.private_webhooks),
            (Setting::PrivateEgressProxies, &self.private_egress_proxies),
            (Setting::SecretsKeyCommand, &self.secrets_key_command),
            (Setting::RulesCaFile, &self.rules_ca_file),
            (Setting::EventsKeptDays, &self.events_kept_days),
            (Setting::EcrEndpoint, &self.ecr_endpoint),
            (Setting::DiskBacking, &self.disk_backing),
            (Setting::DiskReserveMib, &self.disk_reserve_mib),
            (Setting::VolumeSizeMib, &self.volume_size_mib),
            (Setting::MirrorsApt, &self.mirrors_apt),
            (Setting::MirrorsPip, &self.mirrors_pip),
            (Setting::MirrorsNpm, &self.mirrors_npm),
            (Setting::MirrorsRegistries, &self.mirrors_registries),
            (Setting::LimitsVcpu, &self.limits_vcpu),
            (Setting::LimitsMemoryMib, &self.limits_memory_mib),
            (Setting::LimitsPids, &self.limits_pids),
            (Setting::LimitsDiskMib, &self.limits_disk_mib),
        ];
        all.into_iter()
            .filter_map(|(key, text)| Some((key, text.clone()?)))
            .collect()
    }
}

/// `soulbox sandbox …`
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Create a sandbox and print its ID
    Create(CreateArgs),
    /// List sandboxes
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Run a command in a sandbox; input, output and exit code are the command's
    Exec(ExecArgs),
    /// Run Python over data by the code interpreter, and show tables, metrics and what was printed
    Analyze(AnalyzeArgs),
    /// Draw a plot by the code interpreter into a file
    Plot(PlotArgs),
    /// Follow a command that runs already, or ended within the last minute
    Attach(AttachArgs),
    /// Open a terminal in a sandbox
    Connect(ConnectArgs),
    /// Stop a sandbox and keep it as it is
    Pause(PauseArgs),
    /// Bring a paused sandbox back
    Resume(ResumeArgs),
    /// Make sandboxes from what a running one has at this moment, and print their IDs
    Fork(ForkArgs),
    /// Save a running sandbox as a snapshot that others can be created from, and print the snapshot's ID
    Snapshot(SnapshotArgs),
    /// Show which sandboxes and snapshots come from which
    Tree,
    /// Kill sandboxes
    Kill(KillArgs),
    /// Show one sandbox
    Info(IdArgs),
    /// Show what a sandbox uses
    Metrics(MetricsArgs),
    /// Show what has happened in a sandbox
    Logs(LogsArgs),
    /// Show what has happened to a sandbox: its life, also after its end
    Events(EventsArgs),
    /// Print an address that opens a port of a sandbox to whoever has it
    Url(UrlArgs),
    /// Show what a sandbox has said to the network, and why it was blocked
    Net(NetArgs),
    /// Let a running sandbox reach one host more
    Allow(AllowArgs),
}

/// `soulbox gc`
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct GcArgs {
    /// Only show what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `soulbox sandbox create`
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name or ID of the template
    #[arg(default_value = "base")]
    pub(crate) template: String,
    /// Seconds until it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout: u32,
    /// A label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// An environment variable of every command in it; may be repeated. KEY alone takes the value from here
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Cut it off from the internet
    #[arg(long)]
    pub(crate) no_internet: bool,
    /// A volume and where it appears; may be repeated
    #[arg(long, value_name = "NAME:PATH", value_parser = mount)]
    pub(crate) volume: Vec<(String, String)>,
}

/// `soulbox sandbox list`
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// Only those in this state; may be repeated
    #[arg(long, value_enum)]
    pub(crate) state: Vec<State>,
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// A sandbox's public state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Running,
    Paused,
}

impl State {
    /// As on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// `soulbox sandbox exec`
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The sandbox
    pub(crate) id: String,
    /// User to run as [default: the template's]
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    /// Directory to run in [default: the template's, else the user's home]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// An environment variable; may be repeated. KEY alone takes the value from here
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Kill the command after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Give the command no input
    #[arg(long, short = 'n')]
    pub(crate) no_stdin: bool,
    /// Leave the command running and print its process ID
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// The command and its arguments. A single argument is given to a login shell
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

/// `soulbox sandbox connect`
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The sandbox
    pub(crate) id: String,
    /// User of the shell [default: the template's]
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    /// Attach to this terminal, left running by an earlier `connect`, instead of starting a shell
    #[arg(long, value_name = "PID")]
    pub(crate) attach: Option<u32>,
}

/// `soulbox sandbox kill`
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The sandboxes
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
}

/// `soulbox sandbox pause`
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Keep only its files: it takes no memory then, and starts anew when it is brought back
    #[arg(long)]
    pub(crate) files_only: bool,
}

/// `soulbox sandbox resume`
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Seconds that it runs at least
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: i32,
    /// Start it anew from its files, even if its memory was kept
    #[arg(long)]
    pub(crate) reboot: bool,
}

/// One sandbox.
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The sandbox
    pub(crate) id: String,
}

/// `soulbox sandbox metrics`
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Go on showing new samples until the sandbox ends
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// `soulbox sandbox logs`
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Go on showing new entries until the sandbox ends
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Leave out what is below this level
    #[arg(long, value_enum)]
    pub(crate) level: Option<Level>,
}

/// `soulbox sandbox events`
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Go on showing new events until the sandbox ends
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// Level of a log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// As on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// `soulbox key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print it, this once
    Create {
        /// What it is for
        #[arg(default_value = "command line")]
        name: String,
    },
    /// List keys
    #[command(visible_alias = "ls")]
    List,
    /// Make a key useless from now on
    Revoke {
        /// ID of the key, from `soulbox key list`
        id: String,
    },
}

/// `soulbox template …`
#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Make a built-in template from the distribution's packages
    Bootstrap(BootstrapArgs),
    /// Make a template of what `export` has written, or of another OCI layout
    Import(ImportArgs),
    /// Build a template from a Dockerfile, an image, another template or a root file system
    Build(Box<BuildArgs>),
    /// List templates
    #[command(visible_alias = "ls")]
    List,
    /// Show a template, its newest builds and its tags
    #[command(visible_alias = "info")]
    Show(NameArgs),
    /// List all versions of a template, and which is in use
    Versions(NameArgs),
    /// Go back to an earlier version: what `default` means from now on
    Rollback(versions::RollbackArgs),
    /// Find templates: the team's own and all public ones
    Search(versions::SearchArgs),
    /// Say what a template is
    Describe(versions::DescribeArgs),
    /// Show what differs between two versions: packages and files
    Diff(versions::DiffArgs),
    /// Write a template to a file, as an OCI image
    Export(versions::ExportArgs),
    /// Let every team use a template
    Publish(NameArgs),
    /// Keep a template to its team
    Unpublish(NameArgs),
    /// Delete a template with all its builds
    Rm(NameArgs),
    /// Compare a template's files with its manifest
    Verify {
        /// Which
        #[arg(default_value = "base")]
        name: String,
    },
}

/// `soulbox criu`
#[derive(Debug, Args)]
pub(crate) struct CriuArgs {
    /// Debian mirror to take packages from [default: the host's own]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
}

/// `soulbox template bootstrap`
#[derive(Debug, Args)]
pub(crate) struct BootstrapArgs {
    /// Which
    #[arg(value_enum)]
    pub(crate) name: BootstrapName,
    /// Debian mirror to take packages from [default: the host's own]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
    /// Debian release [default: the newest that can be had]
    #[arg(long, value_name = "NAME")]
    pub(crate) suite: Option<String>,
    /// Take the template over from another data directory instead of building it
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// Build again even when it is here
    #[arg(long)]
    pub(crate) rebuild: bool,
}

/// A template by its name.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Which
    pub(crate) name: String,
}

/// Templates that can be made without a build service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootstrapName {
    Base,
}

/// `soulbox bench …`
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Create, first command, kill; one at a time
    Create(BenchArgs),
    /// Commands on a running sandbox
    Exec(BenchArgs),
    /// Many creates at once, all usable
    Burst(BenchArgs),
    /// Many idle sandboxes: their memory, the server's memory, the API's answer times
    Idle(BenchArgs),
    /// Upload and download through the edge
    Transfer(BenchArgs),
    /// Files from 1 KiB to 1 GiB up and down, and thousands of small ones
    Files(BenchArgs),
    /// Create and kill as fast as it goes, then steadily at half of that
    Sustained(BenchArgs),
    /// Pause, resume, snapshot, fork
    Lifecycle(BenchArgs),
    /// Builds of templates: steps, cache, and sandboxes of small and large ones
    Template(BenchArgs),
    /// Requests and large answers through the edge, beside nginx in front of the same server, if it is installed
    Edge(BenchArgs),
    /// What requests cost as there are 10 and 100 times as many sandboxes, keys, templates and layers
    Growth(BenchArgs),
    /// All of the above
    All(BenchArgs),
    /// Code in the code interpreter, whose template must be there; `--peers`: a plain jupyter_client on this host
    Interpreter(BenchArgs),
    /// Connections out of sandboxes beside plain NAT and mitmproxy, and creates under many policies
    Network(BenchArgs),
}

impl BenchCommand {
    /// The options, whichever bench it is.
    pub(crate) fn args(&self) -> &BenchArgs {
        match self {
            Self::Create(args)
            | Self::Exec(args)
            | Self::Burst(args)
            | Self::Idle(args)
            | Self::Transfer(args)
            | Self::Files(args)
            | Self::Sustained(args)
            | Self::Lifecycle(args)
            | Self::Template(args)
            | Self::Interpreter(args)
            | Self::Edge(args)
            | Self::Growth(args)
            | Self::Network(args)
            | Self::All(args) => args,
        }
    }
}

/// Options of every bench.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// How many (create, exec: rounds; burst, idle: sandboxes; files: of each size at most; network: policies; edge: turns;
    /// growth: the first number of sandboxes and keys)
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: Option<u32>,
    /// Template to measure with
    #[arg(long, default_value = "base")]
    pub(crate) template: String,
    /// Also run what is installed of crun, runc, bwrap, runsc and podman on the same files, in turn with ours
    #[arg(long)]
    pub(crate) peers: bool,
    /// For create: how long each step takes, of ours and of the bare system calls
    #[arg(long)]
    pub(crate) trace: bool,
    /// For create: also with a cold page cache; the kernel then forgets the files of the whole machine
    #[arg(long)]
    pub(crate) cold: bool,
    /// Root file system for peers and bare system calls, instead of the template's
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Workers at once, for sustained
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) workers: u32,
    /// How long, for sustained
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Size of the file, for transfer
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(crate) size_mib: u32,
    /// Certificate and key for ruled.bench.test, of an authority in the server's rules_ca_file, for network
    #[arg(long, value_name = "FILE.pem")]
    pub(crate) far_pem: Option<PathBuf>,
    /// Draw the distributions into this file, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

/// `soulbox debug …`
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Print the steps that turn a process into a sandbox
    Plan {
        /// Template to plan for
        #[arg(default_value = "base")]
        template: String,
    },
    /// List the system calls and sockets that a sandbox may use on this architecture
    Filter,
    /// List the places at which tests make a server die: SOULBOX_FAULT=<point>[:<hit>[:kill|sleep|error]]
    FaultPoints,
}

/// `soulbox purge`
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Also delete the data directory with its templates, keys and records
    #[arg(long)]
    pub(crate) data: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `soulbox config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the effective configuration and where each value came from
    Check(Box<ServeArgs>),
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn mount(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() => Ok((name.to_owned(), path.to_owned())),
        _ => Err("expected NAME:PATH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn declarations_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_its_flag() {
        let mut serve = Cli::command();
        let serve = serve.find_subcommand_mut("serve").unwrap();
        serve.build();
        let known: Vec<String> = serve
            .get_arguments()
            .filter_map(|a| Some(format!("--{}", a.get_long()?)))
            .collect();
        for key in Setting::ALL {
            assert!(
                key == Setting::DataDir || known.contains(&key.flag()),
                "{}",
                key.flag()
            );
        }
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let cli = parse("soulbox --json sandbox exec --user root i0 -- ls -la --json").unwrap();
        assert!(cli.global.json);
        let Command::Sandbox(SandboxCommand::Exec(exec)) = cli.command else {
            panic!("not exec")
        };
        assert_eq!(
            (exec.id.as_str(), exec.user.as_deref()),
            ("i0", Some("root"))
        );
        assert_eq!(exec.command, ["ls", "-la", "--json"]);
    }

    #[test]
    fn global_options_go_anywhere() {
        let cli = parse("soulbox sandbox list --json --data-dir /x --metadata a=b=c").unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.data_dir.as_deref(), Some("/x"));
        let Command::Sandbox(SandboxCommand::List(list)) = cli.command else {
            panic!("not list")
        };
        assert_eq!(list.metadata, [("a".to_owned(), "b=c".to_owned())]);
    }

    #[test]
    fn flags_become_a_layer() {
        let cli =
            parse("soulbox serve --listen 127.0.0.1:0 --metrics-listen --data-dir /x").unwrap();
        let Command::Serve(serve) = cli.command else {
            panic!("not serve")
        };
        let layer = serve.layer(&cli.global);
        let expected = [
            (Setting::DataDir, "/x"),
            (Setting::Listen, "127.0.0.1:0"),
            (Setting::MetricsListen, METRICS_ADDRESS),
        ];
        assert_eq!(layer, expected.map(|(key, text)| (key, text.to_owned())));
    }

    #[test]
    fn refusals() {
        for line in [
            "soulbox",
            "soulbox sandbox kill",
            "soulbox sandbox kill --all i0",
            "soulbox sandbox exec i0",
            "soulbox sandbox create --timeout 0",
            "soulbox sandbox create --metadata x",
            "soulbox template bootstrap desktop",
            "soulbox key create --secret x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_of_the_whole() {
        let help = Cli::command().term_width(100).render_help().to_string();
        insta::assert_snapshot!(help);
    }
}
