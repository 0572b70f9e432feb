//! Between the wire's bodies and typed values: the only place that knows both names.

use serde_json::{Map, Value};
use soulbox_api_types::build::BuildStatus as WireBuildStatus;
use soulbox_api_types::logs::{LogLevel as WireLogLevel, SandboxLog, SandboxLogEntry};
use soulbox_api_types::metrics::SandboxMetric;
use soulbox_api_types::network::SandboxNetworkConfig;
use soulbox_api_types::sandbox::{
    ListedSandbox, NewSandbox as WireNewSandbox, OnTimeout as WireOnTimeout,
    PauseMode as WirePauseMode, Sandbox, SandboxDetail, SandboxLifecycle, SandboxState,
    VolumeMount,
};
use soulbox_api_types::team::{CreatedTeamApiKey, KeyMask, TeamApiKey};
use soulbox_api_types::template::{Template as WireTemplate, TemplateBuild};
use soulbox_orchestrator::{NewSandbox, SandboxView};
use soulbox_store::{
    ApiKey, Build, BuildStatus, LogEntry, LogLevel, MetricSample, PauseMode, RecordState,
    ResolvedTemplate, SandboxRecord, Team, TemplateSummary,
};
use soulbox_types::{LayerDigest, NetworkMode, OnTimeout, TemplateImage};

use crate::error::ApiError;
use crate::network::{in_lower_case, without_secrets};
use crate::sandboxes::admission::Admitted;
use crate::volumes::mounts::Mounts;

/// Old clients address sandboxes as `<sandboxID>-<clientID>`; the value means nothing.
const CLIENT_ID: &str = "6532622b";
/// Stands for "no build" where the contract requires an id.
const NO_BUILD: &str = "00000000-0000-0000-0000-000000000000";

/// What the orchestrator is to create.
pub(crate) fn new_sandbox(
    team: &Team,
    network: NetworkMode,
    body: WireNewSandbox,
    resolved: &ResolvedTemplate,
    admitted: Admitted,
    mounts: Mounts,
) -> Result<NewSandbox, ApiError> {
    let ResolvedTemplate { template, build } = resolved;
    let shown = body.network.map(|network| SandboxNetworkConfig {
        rules: network.rules.map(in_lower_case),
        egress_proxy: network.egress_proxy.map(without_secrets),
        ..network
    });
    let network_json = shown
        .as_ref()
        .map(serde_json::to_value)
        .transpose()
        .map_err(ApiError::internal)?;
    Ok(NewSandbox {
        team: team.id.clone(),
        image: TemplateImage {
            template_id: template.id.clone(),
            layers: layers(build)?,
            default_user: build.default_user.clone(),
            default_workdir: build.default_workdir.clone(),
        },
        build_id: build.id.clone(),
        alias: template.aliases.first().cloned(),
        limits: build.limits,
        envd_version: build.envd_version.clone(),
        start: build.start.clone(),
        memory: build.memory.clone(),
        timeout: admitted.timeout,
        on_timeout: at_the_end(body.auto_pause == Some(true)),
        auto_pause_memory: body.auto_pause_memory.unwrap_or(true),
        auto_resume: body.auto_resume.is_some_and(|policy| policy.enabled),
        auto_resume_timeout_seconds: admitted.auto_resume_timeout_seconds,
        metadata: body.metadata,
        env_vars: body.env_vars.unwrap_or_default(),
        network,
        allow_internet_access: body.allow_internet_access,
        network_json,
        allow_public_traffic: admitted.ingress.allow_public_traffic,
        mask_request_host: admitted.ingress.mask_request_host,
        https_ports: admitted.ingress.https_ports,
        volumes: mounts.volumes,
        volume_mounts: mounts.record,
        forked_from: None,
    })
}

/// What the wire's `autoPause` means.
pub(crate) fn at_the_end(auto_pause: bool) -> OnTimeout {
    if auto_pause {
        OnTimeout::Pause
    } else {
        OnTimeout::Kill
    }
}

/// The layers of a build. What the database holds under this name and is none is damage, not a caller's mistake.
fn layers(build: &Build) -> Result<Vec<LayerDigest>, ApiError> {
    let digests = build.layers.iter().map(|text| text.parse());
    digests
        .collect::<Result<_, _>>()
        .map_err(ApiError::internal)
}

/// What create and connect answer.
pub(crate) fn sandbox(view: &SandboxView) -> Sandbox {
    let record = &view.record;
    Sandbox {
        template_id: record.template_id.to_string(),
        sandbox_id: record.id.to_string(),
        alias: record.alias.clone(),
        client_id: CLIENT_ID.to_owned(),
        envd_version: record.envd_version.clone(),
        envd_access_token: Some(view.envd_access_token.clone()),
        traffic_access_token: view.traffic_access_token.clone(),
        domain: view.domain.clone(),
    }
}

pub(crate) fn sandbox_detail(view: &SandboxView) -> SandboxDetail {
    let record = &view.record;
    SandboxDetail {
        template_id: record.template_id.to_string(),
        alias: record.alias.clone(),
        sandbox_id: record.id.to_string(),
        client_id: CLIENT_ID.to_owned(),
        started_at: record.started_at.to_string(),
        end_at: record.end_at.to_string(),
        envd_version: record.envd_version.clone(),
        envd_access_token: Some(view.envd_access_token.clone()),
        allow_internet_access: record.allow_internet_access,
        domain: view.domain.clone(),
        cpu_count: record.limits.vcpu_count,
        memory_mb: record.limits.memory_mib,
        disk_size_mb: record.limits.disk_mib,
        metadata: record.metadata.clone(),
        state: state(record.state),
        network: network(record),
        lifecycle: Some(SandboxLifecycle {
            auto_resume: record.auto_resume,
            on_timeout: on_timeout(record.on_timeout),
        }),
        volume_mounts: volume_mounts(record),
        pause_mode: record.pause.as_ref().map(|pause| match pause.mode {
            PauseMode::Full => WirePauseMode::Full,
            PauseMode::Filesystem => WirePauseMode::Filesystem,
        }),
        envd_unresponsive_at_pause: unresponsive(record),
        forked_from: record.forked_from.as_ref().map(ToString::to_string),
    }
}

pub(crate) fn listed_sandbox(view: &SandboxView) -> ListedSandbox {
    let record = &view.record;
    ListedSandbox {
        template_id: record.template_id.to_string(),
        alias: record.alias.clone(),
        sandbox_id: record.id.to_string(),
        client_id: CLIENT_ID.to_owned(),
        started_at: record.started_at.to_string(),
        end_at: record.end_at.to_string(),
        cpu_count: record.limits.vcpu_count,
        memory_mb: record.limits.memory_mib,
        disk_size_mb: record.limits.disk_mib,
        metadata: record.metadata.clone(),
        state: state(record.state),
        envd_version: record.envd_version.clone(),
        volume_mounts: volume_mounts(record),
        envd_unresponsive_at_pause: unresponsive(record),
        forked_from: record.forked_from.as_ref().map(ToString::to_string),
    }
}

/// Said only when it is so.
fn unresponsive(record: &SandboxRecord) -> Option<bool> {
    let pause = record.pause.as_ref()?;
    pause.guest_unresponsive.then_some(true)
}

fn state(state: RecordState) -> SandboxState {
    match state {
        RecordState::Running => SandboxState::Running,
        RecordState::Paused => SandboxState::Paused,
    }
}

fn on_timeout(policy: OnTimeout) -> WireOnTimeout {
    match policy {
        OnTimeout::Kill => WireOnTimeout::Kill,
        OnTimeout::Pause => WireOnTimeout::Pause,
    }
}

/// As given at create, but for what was kept out of the record.
fn network(record: &SandboxRecord) -> Option<SandboxNetworkConfig> {
    let stored = record.network.clone()?;
    serde_json::from_value(stored)
        .inspect_err(|error| tracing::warn!(sandbox.id = %record.id, %error, "stored network settings cannot be read"))
        .ok()
}

fn volume_mounts(record: &SandboxRecord) -> Vec<VolumeMount> {
    serde_json::from_value(record.volume_mounts.clone())
        .inspect_err(|error| tracing::warn!(sandbox.id = %record.id, %error, "stored volume mounts cannot be read"))
        .unwrap_or_default()
}

pub(crate) fn sandbox_metric(sample: &MetricSample) -> SandboxMetric {
    SandboxMetric {
        timestamp: sample.at.to_string(),
        timestamp_unix: sample.at.unix_seconds(),
        cpu_count: i32::try_from(sample.cpu_count).unwrap_or(i32::MAX),
        cpu_used_pct: sample.cpu_used_pct,
        mem_used: signed(sample.mem_used_bytes),
        mem_total: signed(sample.mem_total_bytes),
        mem_cache: signed(sample.mem_cache_bytes),
        disk_used: signed(sample.disk_used_bytes),
        disk_total: signed(sample.disk_total_bytes),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(crate) fn level(level: LogLevel) -> WireLogLevel {
    match level {
        LogLevel::Debug => WireLogLevel::Debug,
        LogLevel::Info => WireLogLevel::Info,
        LogLevel::Warn => WireLogLevel::Warn,
        LogLevel::Error => WireLogLevel::Error,
    }
}

pub(crate) fn log_entry(entry: LogEntry) -> SandboxLogEntry {
    SandboxLogEntry {
        timestamp: entry.at.to_string(),
        message: entry.message,
        level: level(entry.level),
        fields: entry.fields,
    }
}

/// The CLI parses the text as JSON and reads `level`, `logger` and `message`.
pub(crate) fn log_line(entry: &LogEntry) -> SandboxLog {
    let mut line: Map<String, Value> = entry
        .fields
        .iter()
        .map(|(k, v)| (k.clone(), v.as_str().into()))
        .collect();
    let level = match entry.level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    line.insert("level".to_owned(), level.into());
    line.insert("message".to_owned(), entry.message.clone().into());
    SandboxLog {
        timestamp: entry.at.to_string(),
        line: Value::Object(line).to_string(),
    }
}

/// Whether a template's use is shown: only its owner may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Shown,
    Hidden,
}

pub(crate) fn template(summary: &TemplateSummary, usage: Usage) -> WireTemplate {
    let TemplateSummary {
        template,
        build,
        status,
        build_count,
    } = summary;
    let limits = build.as_ref().map(|b| b.limits);
    let shown = usage == Usage::Shown;
    WireTemplate {
        template_id: template.id.to_string(),
        build_id: build
            .as_ref()
            .map_or_else(|| NO_BUILD.to_owned(), |b| b.id.to_string()),
        cpu_count: limits.map_or(0, |l| l.vcpu_count),
        memory_mb: limits.map_or(0, |l| l.memory_mib),
        disk_size_mb: limits.map_or(0, |l| l.disk_mib),
        public: template.public,
        aliases: template.aliases.clone(),
        names: template.names.clone(),
        created_at: template.created_at.to_string(),
        updated_at: template.updated_at.to_string(),
        created_by: None,
        last_spawned_at: template
            .last_spawned_at
            .filter(|_| shown)
            .map(|at| at.to_string()),
        spawn_count: if shown { template.spawn_count } else { 0 },
        build_count: if shown {
            i32::try_from(*build_count).unwrap_or(i32::MAX)
        } else {
            0
        },
        envd_version: build
            .as_ref()
            .map(|b| b.envd_version.clone())
            .unwrap_or_default(),
        build_status: status.map_or(WireBuildStatus::Waiting, build_status),
        is_default: Some(template.is_default),
        description: template.description.clone(),
    }
}

pub(crate) fn build_status(status: BuildStatus) -> WireBuildStatus {
    match status {
        BuildStatus::Waiting => WireBuildStatus::Waiting,
        BuildStatus::Building => WireBuildStatus::Building,
        BuildStatus::Ready => WireBuildStatus::Ready,
        BuildStatus::Error => WireBuildStatus::Error,
    }
}

pub(crate) fn template_build(build: &Build) -> TemplateBuild {
    TemplateBuild {
        build_id: build.id.to_string(),
        status: build_status(build.status),
        created_at: build.created_at.to_string(),
        updated_at: build.updated_at.to_string(),
        finished_at: build.finished_at.map(|at| at.to_string()),
        cpu_count: build.limits.vcpu_count,
        memory_mb: build.limits.memory_mib,
        disk_size_mb: Some(build.limits.disk_mib),
        envd_version: Some(build.envd_version.clone()),
        version: build.semver.clone(),
        size_bytes: Some(build.size_bytes),
    }
}

pub(crate) fn api_key(key: ApiKey) -> TeamApiKey {
    TeamApiKey {
        id: key.id.to_string(),
        name: key.name,
        mask: KeyMask {
            prefix: key.mask.prefix,
            value_length: i32::try_from(key.mask.value_length).unwrap_or(i32::MAX),
            masked_value_prefix: key.mask.masked_value_prefix,
            masked_value_suffix: key.mask.masked_value_suffix,
        },
        created_at: key.created_at.to_string(),
        created_by: None,
        last_used: key.last_used.map(|at| at.to_string()),
    }
}

pub(crate) fn created_api_key(key: ApiKey, raw: String) -> CreatedTeamApiKey {
    CreatedTeamApiKey {
        record: api_key(key),
        key: raw,
    }
}
