//! The configuration of the server, judged: typed values that hold together.
//!
//! Built in two steps: [`raw::RawConfig`] is what was written, [`Config`] is what it means. Judging reports
//! every problem, not the first one. Nothing here reads a file or the environment; [`read_inputs`] does, once.

pub(crate) mod raw;
mod suggest;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use soulbox_builder::Mirrors;
use soulbox_driver_linux::{BackingChoice, DiskSettings};
use soulbox_net::ipv6::Ipv6;
use soulbox_net::limits::{ConnectionLimits, TeamLimits};
use soulbox_registry::PrivateRegistry;
use soulbox_telemetry::logs;
use soulbox_types::{Cidr, Limits};
use soulbox_webhooks::PrivateWebhook;

use crate::failure::Failure;
use raw::{Inputs, RawConfig, Setting, Source};

/// The file that is read when `--config` is not given.
pub(crate) const DEFAULT_FILE: &str = "/etc/soulbox/soulbox.toml";
/// Where `--metrics-listen` without a value listens.
pub(crate) const METRICS_ADDRESS: &str = "127.0.0.1:3001";

/// Everything the server can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where everything that must outlive the server is kept. Default `/var/lib/soulbox`.
    pub(crate) data_dir: PathBuf,
    /// Address of the one port that carries the API and all sandbox traffic. Default `127.0.0.1:3000`.
    pub(crate) listen: SocketAddr,
    /// Domain mode: the API is `api.<domain>`, a sandbox's port is `<port>-<id>.<domain>`. Default none.
    pub(crate) domain: Option<String>,
    /// HTTPS for `api.<domain>` and `<port>-<id>.<domain>`; only with `domain`. Default none.
    pub(crate) tls: Option<Tls>,
    /// Address of the metrics listener. Default off.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// What is logged: `error` to `trace`, or directives such as `info,soulbox_edge=debug`. Default `info`.
    pub(crate) log_level: String,
    /// How log lines look. Default `auto`: for people on a terminal, JSON otherwise.
    pub(crate) log_format: logs::Format,
    /// Sandboxes a team may have at once, 1 to 32,768. Default 2048.
    pub(crate) max_sandboxes_per_team: u32,
    /// Longest time a sandbox may run, 1 to 720 hours. Default 24 hours.
    pub(crate) max_timeout: Duration,
    /// Builds that a team may have in progress at once, 1 to 1024. Default 20.
    pub(crate) max_builds_per_team: u32,
    /// Longest time that the build of a template may take, 1 second to 24 hours. Default 1 hour.
    pub(crate) max_build_time: Duration,
    /// Most virtual CPUs that a template may ask for, 1 to 1024. Default 32.
    pub(crate) max_vcpu: u32,
    /// Most memory that a template may ask for, 128 MiB to 16 TiB. Default 64 GiB.
    pub(crate) max_memory_mib: u32,
    /// Slots kept prepared ahead of the next create, 0 to 256. Default 8.
    pub(crate) slots_ready: u16,
    /// How long after a pause with memory the files are saved, too, 0 seconds to 24 hours. Default 30 seconds.
    pub(crate) save_paused_after: Duration,
    /// How long after that its memory goes to disk, 0 seconds to a year. Default 5 minutes.
    pub(crate) hibernate_after: Duration,
    /// How long a stop waits for what is paused to go to disk, 0 seconds (not at all) to an hour. Default 0.
    pub(crate) hibernate_on_stop: Duration,
    /// Connections out of a sandbox: at a time (`max_connections_per_sandbox`, 16 to 1,000,000, default 4096), and begun
    /// in a second (`new_connections_per_second`, 1 to 1,000,000, default 1000). Those of all sandboxes of a team at a time
    /// (`max_connections_per_team`, 0 (no bound) to 1,000,000, default 0), and begun in a second
    /// (`new_connections_per_second_per_team`, the same).
    pub(crate) connections: ConnectionLimits,
    /// DNS servers that sandboxes' queries are forwarded to. Empty: the host's own, from `/etc/resolv.conf`.
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    /// Whether sandboxes have IPv6: `auto` (where the host has a public address and a default route of it), `on`, `off`.
    /// Default `auto`.
    pub(crate) ipv6: Ipv6,
    /// Registries that builds may pull from although their addresses are not public or they have no TLS: `registry.lan`,
    /// `10.0.0.5:5000`, `http://127.0.0.1:5000`. Default none.
    pub(crate) private_registries: Vec<PrivateRegistry>,
    /// Where webhooks may be although their addresses are not public: `hooks.lan`, `hooks.lan:8080`, `10.0.0.5`,
    /// `10.0.0.0/8`. Default none.
    pub(crate) private_webhooks: Vec<PrivateWebhook>,
    /// Where egress proxies of sandboxes may be although their addresses are not public: `10.0.0.5`, `10.0.0.0/8`. Default
    /// none.
    pub(crate) private_egress_proxies: Vec<Cidr>,
    /// What prints the key that secrets are sealed with; the file `secrets.key` without. Default none.
    pub(crate) secrets_key_command: Option<String>,
    /// Certificates that servers of header rules may have besides those that the host trusts, PEM. Default none.
    pub(crate) rules_ca_file: Option<PathBuf>,
    /// How long events of sandboxes are kept, 1 to 3650 days. Default 30 days.
    pub(crate) events_kept: Duration,
    /// Where tokens for Amazon's registries come from; `{region}` stands for the region.
    pub(crate) ecr_endpoint: String,
    /// By what means disks are limited (`disk_backing`: `auto`, `project-quota`, `image`, `none`; default `auto`), and
    /// how much must stay free on the host (`disk_reserve_mib`, default 1024).
    pub(crate) disk: DiskSettings,
    /// Most that a new volume holds, 16 MiB to 8 TiB. Default 10 GiB.
    pub(crate) volume_size_mib: u32,
    /// Where builds take packages and images from instead of their usual places (`mirrors.apt`, `mirrors.pip`,
    /// `mirrors.npm`, `mirrors.registries`). Default nowhere else.
    pub(crate) mirrors: Mirrors,
    /// Limits of sandboxes whose template asks for nothing.
    pub(crate) default_limits: Limits,
}

/// How HTTPS is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Where (`tls_listen`), beside `listen`. None: on `listen`, which then speaks nothing else.
    pub(crate) listen: Option<SocketAddr>,
    /// With whose certificate.
    pub(crate) issuer: Issuer,
}

impl Tls {
    /// The operator's files, if the certificate is in such.
    pub(crate) fn files(&self) -> Option<&TlsFiles> {
        match &self.issuer {
            Issuer::Operator(files) => Some(files),
            Issuer::Acme(_) | Issuer::Own => None,
        }
    }

    /// The authority that is asked for it, if one is.
    pub(crate) fn acme(&self) -> Option<&Acme> {
        match &self.issuer {
            Issuer::Acme(acme) => Some(acme),
            Issuer::Operator(_) | Issuer::Own => None,
        }
    }
}

/// Who makes the certificate of HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Issuer {
    /// The operator (`tls_cert`, `tls_key`).
    Operator(TlsFiles),
    /// An authority that is asked for it (`acme_…`).
    Acme(Acme),
    /// The server's own authority.
    Own,
}

/// How an authority is asked for certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acme {
    /// URL of its directory (`acme_directory`).
    pub(crate) directory: String,
    /// A mail address for it (`acme_contact`). Default none.
    pub(crate) contact: Option<String>,
    /// What changes the operator's DNS (`acme_dns_command`).
    pub(crate) dns_command: String,
    /// Certificates that its server may have besides those that the host trusts, PEM (`acme_ca_file`). Default none.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Files that make HTTPS possible, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The certificate chain, leaf first.
    pub(crate) cert: PathBuf,
    /// The leaf's private key.
    pub(crate) key: PathBuf,
}

/// A configuration together with where each of its values came from.
#[derive(Debug, Clone)]
pub(crate) struct Effective {
    pub(crate) config: Config,
    pub(crate) raw: RawConfig,
}

/// Judges what was written.
///
/// # Errors
/// All problems, each naming the value and its source.
pub(crate) fn judge(inputs: &Inputs) -> Result<Effective, Vec<String>> {
    let (raw, mut problems) = RawConfig::merge(inputs);
    let config = Judge {
        raw: &raw,
        problems: &mut problems,
    }
    .config();
    match config {
        Some(config) if problems.is_empty() => Ok(Effective { config, raw }),
        _ => Err(problems),
    }
}

/// Judges what was written; the problems as one failure.
pub(crate) fn load(inputs: &Inputs) -> Result<Effective, Failure> {
    judge(inputs).map_err(|problems| {
        let list: String = problems
            .iter()
            .map(|problem| format!("\n  - {problem}"))
            .collect();
        let what = match problems.len() {
            1 => format!("the configuration has a problem:{list}"),
            n => format!("the configuration has {n} problems:{list}"),
        };
        Failure::usage(what).fix("correct the above, then try `soulbox config check`")
    })
}

/// What an unreadable usual file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// A failure: who is configured by it must not start without it.
    Fails,
    /// As if it were not there: a client without rights to the server's file can still name the server.
    IsIgnored,
}

/// Reads file and environment. `file` is the one asked for; without it the usual one is read if it exists.
pub(crate) fn read_inputs(
    file: Option<&Path>,
    flags: Vec<(Setting, String)>,
    unreadable: Unreadable,
) -> Result<Inputs, Failure> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let asked = file.map(Path::to_owned).or_else(|| {
        environment
            .get("SOULBOX_CONFIG")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    });
    let path = asked.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let file = match std::fs::read_to_string(&path) {
        Ok(text) => Some((path, text)),
        Err(error) if asked.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) if asked.is_none() && unreadable == Unreadable::IsIgnored => None,
        Err(error) => {
            return Err(Failure::usage(format!(
                "cannot read configuration file {}",
                path.display()
            ))
            .because(error)
            .fix("name a readable file with --config"));
        }
    };
    Ok(Inputs {
        file,
        environment,
        flags,
    })
}

struct Judge<'a> {
    raw: &'a RawConfig,
    problems: &'a mut Vec<String>,
}

impl Judge<'_> {
    fn connections(&mut self) -> Option<ConnectionLimits> {
        let per_sandbox = self.number(Setting::MaxConnectionsPerSandbox, 16, 1_000_000);
        let new_per_second = self.number(Setting::NewConnectionsPerSecond, 1, 1_000_000);
        let of_team = self.number(Setting::MaxConnectionsPerTeam, 0, 1_000_000);
        let new_of_team = self.number(Setting::NewConnectionsPerSecondPerTeam, 0, 1_000_000);
        Some(ConnectionLimits {
            per_sandbox: per_sandbox?,
            new_per_second: new_per_second?,
            of_team: TeamLimits {
                open: Some(of_team?).filter(|most| *most > 0),
                new_per_second: Some(new_of_team?).filter(|most| *most > 0),
            },
        })
    }

    fn config(&mut self) -> Option<Config> {
        // Every value is read before the first `?`, so that all problems are found.
        let data_dir = self.absolute_path(Setting::DataDir);
        let listen =
            self.parsed::<SocketAddr>(Setting::Listen, "an address such as 127.0.0.1:3000");
        let domain = self.domain();
        let tls = self.tls();
        let metrics_listen = self.metrics_listen();
        let log_level = self.log_level();
        let log_format = self.log_format();
        let max_sandboxes_per_team = self.number(Setting::MaxSandboxesPerTeam, 1, 32_768);
        let max_timeout_hours = self.number(Setting::MaxTimeoutHours, 1, 720);
        let max_builds_per_team = self.number(Setting::MaxBuildsPerTeam, 1, 1024);
        let max_build_seconds = self.number(Setting::MaxBuildSeconds, 1, 86_400);
        let max_vcpu = self.number(Setting::MaxVcpu, 1, 1024);
        let max_memory_mib = self.number(Setting::MaxMemoryMib, 128, 16_777_216);
        let save_paused_after = self.number(Setting::SavePausedAfterSeconds, 0, 86_400);
        let hibernate_after = self.number(Setting::HibernateAfterSeconds, 0, 31_536_000);
        let hibernate_on_stop = self.number(Setting::HibernateOnStopSeconds, 0, 3600);
        let slots_ready = self.number(Setting::SlotsReady, 0, 256);
        let connections = self.connections();
        let dns_upstreams = self.dns_upstreams();
        let (ipv6, private_registries) = (self.ipv6(), self.private_registries());
        let private_webhooks = self.private_webhooks();
        let private_egress_proxies = self.private_egress_proxies();
        let secrets_key_command = Some(self.text(Setting::SecretsKeyCommand).to_owned())
            .filter(|command| !command.is_empty());
        let rules_ca_file = match self.text(Setting::RulesCaFile).is_empty() {
            true => Some(None),
            false => self.absolute_path(Setting::RulesCaFile).map(Some),
        };
        let events_kept_days = self.number(Setting::EventsKeptDays, 1, 3650);
        let ecr_endpoint = self.ecr_endpoint();
        let disk_backing = self.disk_backing();
        let disk_reserve_mib = self.number(Setting::DiskReserveMib, 0, 16_777_216);
        let volume_size_mib = self.number(Setting::VolumeSizeMib, 16, 8_388_608);
        let mirrors = self.mirrors();
        let limits = self.limits();
        self.check_together();
        Some(Config {
            data_dir: data_dir?,
            listen: listen?,
            domain: domain?,
            tls: tls?,
            metrics_listen: metrics_listen?,
            log_level: log_level?,
            log_format: log_format?,
            max_sandboxes_per_team: max_sandboxes_per_team?,
            max_timeout: Duration::from_secs(u64::from(max_timeout_hours?) * 3600),
            max_builds_per_team: max_builds_per_team?,
            max_build_time: Duration::from_secs(u64::from(max_build_seconds?)),
            max_vcpu: max_vcpu?,
            max_memory_mib: max_memory_mib?,
            save_paused_after: Duration::from_secs(u64::from(save_paused_after?)),
            hibernate_after: Duration::from_secs(u64::from(hibernate_after?)),
            hibernate_on_stop: Duration::from_secs(u64::from(hibernate_on_stop?)),
            slots_ready: u16::try_from(slots_ready?).ok()?,
            connections: connections?,
            dns_upstreams: dns_upstreams?,
            ipv6: ipv6?,
            private_registries: private_registries?,
            private_webhooks: private_webhooks?,
            private_egress_proxies: private_egress_proxies?,
            secrets_key_command,
            rules_ca_file: rules_ca_file?,
            events_kept: Duration::from_hours(u64::from(events_kept_days?) * 24),
            ecr_endpoint: ecr_endpoint?,
            disk: DiskSettings {
                backing: disk_backing?,
                usual_mib: limits?.disk_mib,
                reserve_mib: disk_reserve_mib?,
            },
            volume_size_mib: volume_size_mib?,
            mirrors: mirrors?,
            default_limits: limits?,
        })
    }

    fn text(&self, key: Setting) -> &str {
        self.raw.get(key).text.trim()
    }

    fn problem(&mut self, key: Setting, wanted: &str) {
        let value = self.raw.get(key);
        let problem = format!(
            "{} = {:?} (from {}): expected {wanted}",
            key.name(),
            value.text,
            value.source
        );
        self.problems.push(problem);
    }

    fn parsed<T: FromStr>(&mut self, key: Setting, wanted: &str) -> Option<T> {
        let parsed = self.text(key).parse().ok();
        if parsed.is_none() {
            self.problem(key, wanted);
        }
        parsed
    }

    fn number(&mut self, key: Setting, low: u32, high: u32) -> Option<u32> {
        let number = self
            .text(key)
            .parse::<u32>()
            .ok()
            .filter(|n| (low..=high).contains(n));
        if number.is_none() {
            self.problem(key, &format!("a whole number from {low} to {high}"));
        }
        number
    }

    fn absolute_path(&mut self, key: Setting) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(key));
        // Relative paths would mean something else after a restart from another directory; only a flag or a
        // variable is typed by somebody who stands somewhere.
        let given_here = matches!(
            self.raw.get(key).source,
            Source::Flag(_) | Source::Environment(_)
        );
        let path = if path.is_relative() && given_here && !path.as_os_str().is_empty() {
            std::path::absolute(&path).unwrap_or(path)
        } else {
            path
        };
        if path.is_absolute() {
            Some(path)
        } else {
            self.problem(key, "an absolute path");
            None
        }
    }

    fn domain(&mut self) -> Option<Option<String>> {
        let text = self.text(Setting::Domain).to_ascii_lowercase();
        if text.is_empty() {
            return Some(None);
        }
        if is_domain(&text) {
            Some(Some(text))
        } else {
            self.problem(
                Setting::Domain,
                "a domain name such as sandboxes.example.com, without port or https://",
            );
            None
        }
    }

    fn tls(&mut self) -> Option<Option<Tls>> {
        let listen = match self.text(Setting::TlsListen) {
            "" => Some(None),
            _ => self
                .parsed(Setting::TlsListen, "an address such as 0.0.0.0:443")
                .map(Some),
        };
        let files = self.tls_files();
        let acme = self.acme();
        let listen = listen?;
        let issuer = match (files?, acme?) {
            (Some(_), Some(_)) => {
                self.problem(
                    Setting::AcmeDirectory,
                    "nothing where tls_cert is set: the certificate comes from one of the two",
                );
                return None;
            }
            (Some(files), None) => Issuer::Operator(files),
            (None, Some(acme)) => Issuer::Acme(acme),
            (None, None) => Issuer::Own,
        };
        let wanted = listen.is_some() || issuer != Issuer::Own;
        Some(wanted.then_some(Tls { listen, issuer }))
    }

    fn acme(&mut self) -> Option<Option<Acme>> {
        let needs_directory = [
            Setting::AcmeContact,
            Setting::AcmeDnsCommand,
            Setting::AcmeCaFile,
        ];
        let accepted = self.parsed::<bool>(Setting::AcmeAcceptTerms, "true or false")?;
        let directory = self.text(Setting::AcmeDirectory).to_owned();
        let about_it = |key: &Setting| !self.text(*key).is_empty();
        if directory.is_empty() {
            if !accepted && !needs_directory.iter().any(about_it) {
                return Some(None);
            }
            let wanted = "the directory of an ACME authority, such as https://acme-v02.api.letsencrypt.org/directory";
            self.problem(Setting::AcmeDirectory, wanted);
            return None;
        }
        if !directory.starts_with("https://") {
            self.problem(
                Setting::AcmeDirectory,
                "an address that begins with https://",
            );
        }
        if !accepted {
            let wanted = "true: an ACME authority gives certificates to those who accept its terms, which its directory names";
            self.problem(Setting::AcmeAcceptTerms, wanted);
        }
        let contact = self.text(Setting::AcmeContact).to_owned();
        if !contact.is_empty() && !is_mail_address(&contact) {
            self.problem(
                Setting::AcmeContact,
                "a mail address such as ops@example.com",
            );
        }
        let dns_command = self.text(Setting::AcmeDnsCommand).to_owned();
        if !dns_command.starts_with('/') {
            let wanted = "the absolute path of a program that changes your DNS, with arguments if it needs some";
            self.problem(Setting::AcmeDnsCommand, wanted);
        }
        let ca_file = match self.text(Setting::AcmeCaFile).is_empty() {
            true => None,
            false => Some(self.absolute_path(Setting::AcmeCaFile)?),
        };
        Some(Some(Acme {
            directory,
            contact: Some(contact).filter(|contact| !contact.is_empty()),
            dns_command,
            ca_file,
        }))
    }

    fn tls_files(&mut self) -> Option<Option<TlsFiles>> {
        let given = |judge: &Self, key| !judge.text(key).is_empty();
        match (given(self, Setting::TlsCert), given(self, Setting::TlsKey)) {
            (false, false) => Some(None),
            (true, true) => {
                let cert = self.absolute_path(Setting::TlsCert);
                let key = self.absolute_path(Setting::TlsKey);
                Some(Some(TlsFiles {
                    cert: cert?,
                    key: key?,
                }))
            }
            (true, false) => {
                self.problem(
                    Setting::TlsKey,
                    "the private key file that belongs to tls_cert",
                );
                None
            }
            (false, true) => {
                self.problem(
                    Setting::TlsCert,
                    "the certificate file that belongs to tls_key",
                );
                None
            }
        }
    }

    fn metrics_listen(&mut self) -> Option<Option<SocketAddr>> {
        if matches!(self.text(Setting::MetricsListen), "off" | "") {
            return Some(None);
        }
        self.parsed(
            Setting::MetricsListen,
            "`off` or an address such as 127.0.0.1:3001",
        )
        .map(Some)
    }

    fn log_level(&mut self) -> Option<String> {
        let level = self.text(Setting::LogLevel).to_owned();
        if logs::check_level(&level).is_ok() && !level.is_empty() {
            Some(level)
        } else {
            self.problem(
                Setting::LogLevel,
                "error, warn, info, debug, trace, or directives such as info,soulbox_edge=debug",
            );
            None
        }
    }

    fn log_format(&mut self) -> Option<logs::Format> {
        match self.text(Setting::LogFormat) {
            "auto" => Some(logs::Format::Auto),
            "human" => Some(logs::Format::Human),
            "json" => Some(logs::Format::Json),
            _ => {
                self.problem(Setting::LogFormat, "auto, human or json");
                None
            }
        }
    }

    fn dns_upstreams(&mut self) -> Option<Vec<SocketAddr>> {
        let texts = self
            .text(Setting::DnsUpstreams)
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        let parsed: Option<Vec<SocketAddr>> = texts.map(dns_server).collect();
        if parsed.is_none() {
            self.problem(
                Setting::DnsUpstreams,
                "IP addresses, with a port where it is not 53, separated by commas",
            );
        }
        parsed
    }

    fn private_registries(&mut self) -> Option<Vec<PrivateRegistry>> {
        let texts = self.text(Setting::PrivateRegistries).split(',');
        let named = texts.map(str::trim).filter(|text| !text.is_empty());
        let parsed: Option<Vec<PrivateRegistry>> = named.map(|text| text.parse().ok()).collect();
        if parsed.is_none() {
            self.problem(
                Setting::PrivateRegistries,
                "hosts, with a port where it is not the usual one and http:// where there is no TLS, separated by commas",
            );
        }
        parsed
    }

    fn private_webhooks(&mut self) -> Option<Vec<PrivateWebhook>> {
        let texts = self.text(Setting::PrivateWebhooks).split(',');
        let named = texts.map(str::trim).filter(|text| !text.is_empty());
        let parsed: Option<Vec<PrivateWebhook>> = named.map(|text| text.parse().ok()).collect();
        if parsed.is_none() {
            self.problem(
                Setting::PrivateWebhooks,
                "hosts, with a port where only that one is meant, or ranges of addresses such as 10.0.0.0/8, separated by commas",
            );
        }
        parsed
    }

    fn private_egress_proxies(&mut self) -> Option<Vec<Cidr>> {
        let texts = self.text(Setting::PrivateEgressProxies).split(',');
        let named = texts.map(str::trim).filter(|text| !text.is_empty());
        let parsed: Option<Vec<Cidr>> = named.map(Cidr::parse).collect();
        if parsed.is_none() {
            self.problem(
                Setting::PrivateEgressProxies,
                "addresses, or ranges of them such as 10.0.0.0/8, separated by commas",
            );
        }
        parsed
    }

    fn ecr_endpoint(&mut self) -> Option<String> {
        let text = self.text(Setting::EcrEndpoint).to_owned();
        if text.starts_with("https://") || text.starts_with("http://") {
            return Some(text);
        }
        self.problem(Setting::EcrEndpoint, "an address that begins with https://");
        None
    }

    fn ipv6(&mut self) -> Option<Ipv6> {
        self.parsed(Setting::Ipv6, "auto, on or off")
    }

    fn disk_backing(&mut self) -> Option<BackingChoice> {
        self.parsed(
            Setting::DiskBacking,
            "auto, project-quota, image, or none for sandboxes without a disk limit",
        )
    }

    fn mirrors(&mut self) -> Option<Mirrors> {
        let apt = self.mirror(Setting::MirrorsApt);
        let pip = self.mirror(Setting::MirrorsPip);
        let npm = self.mirror(Setting::MirrorsNpm);
        let registries = Mirrors::registries(self.text(Setting::MirrorsRegistries));
        if let Err(wanted) = &registries {
            self.problem(Setting::MirrorsRegistries, &wanted.to_string());
        }
        Some(Mirrors {
            apt: apt?,
            pip: pip?,
            npm: npm?,
            registries: registries.ok()?,
        })
    }

    fn mirror(&mut self, key: Setting) -> Option<Option<String>> {
        let address = Mirrors::address(self.text(key));
        if let Err(wanted) = &address {
            self.problem(key, &wanted.to_string());
        }
        address.ok()
    }

    fn limits(&mut self) -> Option<Limits> {
        let vcpu_count = self.number(Setting::LimitsVcpu, 1, 256);
        // Less memory than this and a login shell is killed before it can say why.
        let memory_mib = self.number(Setting::LimitsMemoryMib, 64, 1_048_576);
        let pids = self.number(Setting::LimitsPids, 16, 4_194_304);
        let disk_mib = self.number(Setting::LimitsDiskMib, 64, 16_777_216);
        Some(Limits {
            vcpu_count: vcpu_count?,
            memory_mib: memory_mib?,
            pids: pids?,
            disk_mib: disk_mib?,
        })
    }

    /// What single values cannot show.
    fn check_together(&mut self) {
        let files = [Setting::TlsCert, Setting::TlsKey];
        if self.text(Setting::Domain).is_empty() {
            if files.iter().any(|key| !self.text(*key).is_empty()) {
                self.problem(
                    Setting::Domain,
                    "the domain that the certificate of tls_cert is for",
                );
            } else if !self.text(Setting::AcmeDirectory).is_empty() {
                self.problem(
                    Setting::Domain,
                    "the domain that acme_directory is asked for a certificate for",
                );
            } else if !self.text(Setting::TlsListen).is_empty() {
                self.problem(Setting::Domain, "the domain that HTTPS is for");
            }
        }
        let listen = self.text(Setting::Listen).to_owned();
        for other in [Setting::MetricsListen, Setting::TlsListen] {
            if listen == self.text(other) && !listen.ends_with(":0") {
                self.problem(other, "another address than listen");
            }
        }
    }
}

fn is_domain(text: &str) -> bool {
    text.len() <= 200
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
        && text.parse::<IpAddr>().is_err()
}

/// One address, without the scheme that the protocol puts before it.
fn is_mail_address(text: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || c.is_control() || ",?:<>".contains(c);
    let sides = text.split_once('@');
    sides.is_some_and(|(who, at)| !who.is_empty() && !at.is_empty()) && !text.contains(strange)
}

fn dns_server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        text.parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, 53))
    })
}

#[cfg(test)]
mod tests;
