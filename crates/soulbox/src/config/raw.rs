//! What was written, before anybody has judged it: every setting as text, with the place it came from.
//!
//! Four layers, later ones win: defaults, file, environment, flags. A key's name decides all its spellings
//! (`limits.vcpu` is `SOULBOX_LIMITS_VCPU` and `--limits-vcpu`), so that there is one list to keep.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::suggest::nearest;

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    DataDir,
    Listen,
    Domain,
    TlsCert,
    TlsKey,
    TlsListen,
    AcmeDirectory,
    AcmeContact,
    AcmeDnsCommand,
    AcmeCaFile,
    AcmeAcceptTerms,
    MetricsListen,
    LogLevel,
    LogFormat,
    MaxSandboxesPerTeam,
    MaxTimeoutHours,
    MaxBuildsPerTeam,
    MaxBuildSeconds,
    MaxVcpu,
    MaxMemoryMib,
    SlotsReady,
    MaxConnectionsPerSandbox,
    NewConnectionsPerSecond,
    MaxConnectionsPerTeam,
    NewConnectionsPerSecondPerTeam,
    SavePausedAfterSeconds,
    HibernateAfterSeconds,
    HibernateOnStopSeconds,
    DnsUpstreams,
    Ipv6,
    PrivateRegistries,
    PrivateWebhooks,
    PrivateEgressProxies,
    SecretsKeyCommand,
    RulesCaFile,
    EventsKeptDays,
    EcrEndpoint,
    DiskBacking,
    DiskReserveMib,
    VolumeSizeMib,
    MirrorsApt,
    MirrorsPip,
    MirrorsNpm,
    MirrorsRegistries,
    LimitsVcpu,
    LimitsMemoryMib,
    LimitsPids,
    LimitsDiskMib,
}

impl Setting {
    /// Every setting, in the order people see them.
    pub(crate) const ALL: [Self; 48] = [
        Self::DataDir,
        Self::Listen,
        Self::Domain,
        Self::TlsCert,
        Self::TlsKey,
        Self::TlsListen,
        Self::AcmeDirectory,
        Self::AcmeContact,
        Self::AcmeDnsCommand,
        Self::AcmeCaFile,
        Self::AcmeAcceptTerms,
        Self::MetricsListen,
        Self::LogLevel,
        Self::LogFormat,
        Self::MaxSandboxesPerTeam,
        Self::MaxTimeoutHours,
        Self::MaxBuildsPerTeam,
        Self::MaxBuildSeconds,
        Self::MaxVcpu,
        Self::MaxMemoryMib,
        Self::SlotsReady,
        Self::MaxConnectionsPerSandbox,
        Self::NewConnectionsPerSecond,
        Self::MaxConnectionsPerTeam,
        Self::NewConnectionsPerSecondPerTeam,
        Self::SavePausedAfterSeconds,
        Self::HibernateAfterSeconds,
        Self::HibernateOnStopSeconds,
        Self::DnsUpstreams,
        Self::Ipv6,
        Self::PrivateRegistries,
        Self::PrivateWebhooks,
        Self::PrivateEgressProxies,
        Self::SecretsKeyCommand,
        Self::RulesCaFile,
        Self::EventsKeptDays,
        Self::EcrEndpoint,
        Self::DiskBacking,
        Self::DiskReserveMib,
        Self::VolumeSizeMib,
        Self::MirrorsApt,
        Self::MirrorsPip,
        Self::MirrorsNpm,
        Self::MirrorsRegistries,
        Self::LimitsVcpu,
        Self::LimitsMemoryMib,
        Self::LimitsPids,
        Self::LimitsDiskMib,
    ];

    /// Its name in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DataDir => "data_dir",
            Self::Listen => "listen",
            Self::Domain => "domain",
            Self::TlsCert => "tls_cert",
            Self::TlsKey => "tls_key",
            Self::TlsListen => "tls_listen",
            Self::AcmeDirectory => "acme_directory",
            Self::AcmeContact => "acme_contact",
            Self::AcmeDnsCommand => "acme_dns_command",
            Self::AcmeCaFile => "acme_ca_file",
            Self::AcmeAcceptTerms => "acme_accept_terms",
            Self::MetricsListen => "metrics_listen",
            Self::LogLevel => "log.level",
            Self::LogFormat => "log.format",
            Self::MaxSandboxesPerTeam => "max_sandboxes_per_team",
            Self::MaxTimeoutHours => "max_timeout_hours",
            Self::MaxBuildsPerTeam => "max_builds_per_team",
            Self::MaxBuildSeconds => "max_build_seconds",
            Self::MaxVcpu => "max_vcpu",
            Self::MaxMemoryMib => "max_memory_mib",
            Self::SlotsReady => "slots_ready",
            Self::MaxConnectionsPerSandbox => "max_connections_per_sandbox",
            Self::NewConnectionsPerSecond => "new_connections_per_second",
            Self::MaxConnectionsPerTeam => "max_connections_per_team",
            Self::NewConnectionsPerSecondPerTeam => "new_connections_per_second_per_team",
            Self::SavePausedAfterSeconds => "save_paused_after_seconds",
            Self::HibernateAfterSeconds => "hibernate_after_seconds",
            Self::HibernateOnStopSeconds => "hibernate_on_stop_seconds",
            Self::DnsUpstreams => "dns_upstreams",
            Self::Ipv6 => "ipv6",
            Self::PrivateRegistries => "private_registries",
            Self::PrivateWebhooks => "private_webhooks",
            Self::PrivateEgressProxies => "private_egress_proxies",
            Self::SecretsKeyCommand => "secrets_key_command",
            Self::RulesCaFile => "rules_ca_file",
            Self::EventsKeptDays => "events_kept_days",
            Self::EcrEndpoint => "ecr_endpoint",
            Self::DiskBacking => "disk_backing",
            Self::DiskReserveMib => "disk_reserve_mib",
            Self::VolumeSizeMib => "volume_size_mib",
            Self::MirrorsApt => "mirrors.apt",
            Self::MirrorsPip => "mirrors.pip",
            Self::MirrorsNpm => "mirrors.npm",
            Self::MirrorsRegistries => "mirrors.registries",
            Self::LimitsVcpu => "limits.vcpu",
            Self::LimitsMemoryMib => "limits.memory_mib",
            Self::LimitsPids => "limits.pids",
            Self::LimitsDiskMib => "limits.disk_mib",
        }
    }

    /// What stands when nobody says otherwise. Empty means: not set.
    pub(crate) fn default_text(self) -> &'static str {
        match self {
            Self::DataDir => "/var/lib/soulbox",
            Self::Listen => "127.0.0.1:3000",
            Self::Domain
            | Self::TlsCert
            | Self::TlsKey
            | Self::TlsListen
            | Self::AcmeDirectory
            | Self::AcmeContact
            | Self::AcmeDnsCommand
            | Self::AcmeCaFile
            | Self::DnsUpstreams
            | Self::PrivateRegistries
            | Self::PrivateWebhooks
            | Self::PrivateEgressProxies
            | Self::SecretsKeyCommand
            | Self::RulesCaFile => "",
            Self::AcmeAcceptTerms => "false",
            Self::EventsKeptDays => "30",
            Self::EcrEndpoint => "https://api.ecr.{region}.amazonaws.com",
            Self::MirrorsApt | Self::MirrorsPip | Self::MirrorsNpm | Self::MirrorsRegistries => "",
            Self::MetricsListen => "off",
            Self::LogLevel => "info",
            Self::LogFormat => "auto",
            Self::MaxSandboxesPerTeam => "2048",
            Self::MaxTimeoutHours => "24",
            Self::MaxBuildsPerTeam => "20",
            Self::MaxBuildSeconds => "3600",
            Self::MaxVcpu => "32",
            Self::MaxMemoryMib => "65536",
            Self::SlotsReady => "8",
            Self::MaxConnectionsPerSandbox => "4096",
            Self::NewConnectionsPerSecond => "1000",
            Self::MaxConnectionsPerTeam | Self::NewConnectionsPerSecondPerTeam => "0",
            Self::SavePausedAfterSeconds => "30",
            Self::HibernateAfterSeconds => "300",
            Self::HibernateOnStopSeconds => "0",
            Self::DiskBacking | Self::Ipv6 => "auto",
            Self::DiskReserveMib => "1024",
            Self::VolumeSizeMib => "10240",
            Self::LimitsVcpu => "2",
            Self::LimitsMemoryMib => "512",
            Self::LimitsPids => "1024",
            Self::LimitsDiskMib => "10240",
        }
    }

    /// Its environment variable.
    pub(crate) fn variable(self) -> String {
        format!("SOULBOX_{}", self.name().replace('.', "_").to_uppercase())
    }

    /// Its flag.
    pub(crate) fn flag(self) -> String {
        format!("--{}", self.name().replace(['.', '_'], "-"))
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One setting as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawValue {
    /// The text. A list is joined by commas, a table as `name=value` pairs.
    pub(crate) text: String,
    /// Where it stood.
    pub(crate) source: Source,
}

/// Everything a configuration is made of. Read beforehand, so that merging is a pure function.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs {
    /// The file's path and text.
    pub(crate) file: Option<(PathBuf, String)>,
    /// The process's environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Flags that were given.
    pub(crate) flags: Vec<(Setting, String)>,
}

/// All settings as written, the winning layer of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawConfig {
    values: BTreeMap<Setting, RawValue>,
}

impl RawConfig {
    /// Lays the inputs over the defaults. Mistakes that concern no value (unknown keys, a file that is no TOML)
    /// come back beside it.
    pub(crate) fn merge(inputs: &Inputs) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut values: BTreeMap<Setting, RawValue> = Setting::ALL
            .into_iter()
            .map(|key| {
                (
                    key,
                    RawValue {
                        text: key.default_text().to_owned(),
                        source: Source::Default,
                    },
                )
            })
            .collect();
        if let Some((path, text)) = &inputs.file {
            for (key, text) in file_values(path, text, &mut problems) {
                values.insert(
                    key,
                    RawValue {
                        text,
                        source: Source::File(path.clone()),
                    },
                );
            }
        }
        for (key, variable, text) in environment_values(&inputs.environment, &mut problems) {
            values.insert(
                key,
                RawValue {
                    text,
                    source: Source::Environment(variable),
                },
            );
        }
        for (key, text) in &inputs.flags {
            values.insert(
                *key,
                RawValue {
                    text: text.clone(),
                    source: Source::Flag(key.flag()),
                },
            );
        }
        (Self { values }, problems)
    }

    /// One setting.
    pub(crate) fn get(&self, key: Setting) -> &RawValue {
        self.values
            .get(&key)
            .expect("merge has filled in every key")
    }
}

fn file_values(path: &Path, text: &str, problems: &mut Vec<String>) -> Vec<(Setting, String)> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let place = line_of(text, &error).map_or(String::new(), |line| format!(" line {line}"));
            problems.push(format!(
                "{}{place}: not TOML: {}",
                path.display(),
                error.message()
            ));
            return Vec::new();
        }
    };
    let mut flat = Vec::new();
    flatten("", &table, &mut flat);
    let mut known = Vec::new();
    for (name, value) in flat {
        match (
            Setting::ALL.into_iter().find(|key| key.name() == name),
            scalar(value),
        ) {
            (Some(key), Some(text)) => known.push((key, text)),
            (Some(_), None) => {
                problems.push(format!(
                    "{}: {name} must be a text, a number, or a list or table of texts",
                    path.display()
                ));
            }
            (None, _) => problems.push(unknown(
                &format!("{}: unknown key {name}", path.display()),
                &name,
            )),
        }
    }
    known
}

fn line_of(text: &str, error: &toml::de::Error) -> Option<usize> {
    let before = text.get(..error.span()?.start)?;
    Some(before.matches('\n').count() + 1)
}

fn unknown(what: &str, name: &str) -> String {
    match nearest(name, Setting::ALL.map(Setting::name)) {
        Some(near) => format!("{what}; did you mean {near}?"),
        None => format!("{what}; `soulbox config check` lists the known keys"),
    }
}

/// Tables become dotted names, so that `[limits] vcpu = 4` and `limits.vcpu = 4` are the same thing. A table that is
/// itself a setting stays whole.
fn flatten<'a>(prefix: &str, table: &'a toml::Table, out: &mut Vec<(String, &'a toml::Value)>) {
    for (name, value) in table {
        let name = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) if !is_table(&name) => flatten(&name, inner, out),
            other => out.push((name, other)),
        }
    }
}

/// Whether this is the name of a setting whose value is a table.
fn is_table(name: &str) -> bool {
    name == Setting::MirrorsRegistries.name()
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Table(pairs) => {
            let pairs = pairs.iter();
            let texts: Option<Vec<String>> = pairs
                .map(|(name, value)| Some(format!("{name}={}", value.as_str()?)))
                .collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) => None,
    }
}

fn environment_values(
    environment: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) -> Vec<(Setting, String, String)> {
    let known: BTreeMap<String, Setting> = Setting::ALL
        .into_iter()
        .map(|key| (key.variable(), key))
        .collect();
    let mut values = Vec::new();
    for (variable, text) in environment
        .iter()
        .filter(|(name, _)| name.starts_with("SOULBOX_"))
    {
        if let Some(key) = known.get(variable) {
            // An empty variable is how shells and unit files say "not set".
            if !text.is_empty() {
                values.push((*key, variable.clone(), text.clone()));
            }
        } else if variable != "SOULBOX_CONFIG"
            && let Some(near) = nearest(variable, known.keys().map(String::as_str))
        {
            // Only what looks like a slip is an error: orchestrators put variables of their own
            // (SOULBOX_SERVICE_HOST and the like) into the environment of whatever is called soulbox.
            problems.push(format!(
                "environment: unknown variable {variable}; did you mean {near}?"
            ));
        }
    }
    values
}
