//! `POST /v3/templates`: a build is asked for.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::build::{NewTemplateBuild, TemplateBuildRequested};
use soulbox_store::{NewBuild, RequestBuildError};
use soulbox_types::Limits;
use soulbox_types::name::DEFAULT_TAG;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody};
use crate::sandboxes::schema::at_least;
use crate::state::{Shared, TeamLimits};
use crate::templates::access::{own_namespace, reference};
use crate::templates::tags::clean_tags;

const MAX_NAME_LENGTH: usize = 128;
const MAX_CPU_COUNT: u32 = 32;
const MIN_MEMORY_MIB: i32 = 128;
const DEFAULT_CPU_COUNT: u32 = 2;
const DEFAULT_MEMORY_MIB: u32 = 1024;

impl Body for NewTemplateBuild {
    fn check(&self) -> Result<(), String> {
        at_least("cpuCount", self.cpu_count, 1)?;
        at_least("memoryMB", self.memory_mb, MIN_MEMORY_MIB)?;
        at_least("minFreeDiskMb", self.min_free_disk_mb, 0)?;
        let too_long = |text: &Option<String>| {
            text.as_ref()
                .is_some_and(|t| t.chars().count() > MAX_NAME_LENGTH)
        };
        if too_long(&self.name) || too_long(&self.alias) {
            return Err(format!("name: maximum string length is {MAX_NAME_LENGTH}"));
        }
        Ok(())
    }
}

pub(crate) async fn request(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<NewTemplateBuild>,
) -> Result<(StatusCode, Json<TemplateBuildRequested>), ApiError> {
    if body
        .team_id
        .as_ref()
        .is_some_and(|id| !id.eq_ignore_ascii_case(team.id.as_str()))
    {
        return Err(crate::auth::not_your_team());
    }
    let name = body.name.as_deref().or(body.alias.as_deref());
    let name = name.unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::invalid("Name is required"));
    }
    let wanted = reference(name, "Invalid name")?;
    own_namespace(&team, &wanted)?;
    let given = body.tags.iter().flatten().map(String::as_str);
    let mut tags = clean_tags(given.chain(wanted.tag.as_deref()))?;
    if tags.is_empty() {
        tags.push(DEFAULT_TAG.to_owned());
    }
    let new = NewBuild {
        limits: limits(&body, &api.limits)?,
        max_concurrent: api.limits.max_concurrent_builds,
        reference: wanted,
        tags,
    };
    let requested = api.store.request_build(&team, &new).await?;
    let alias = new.reference.alias_or_id;
    let answer = TemplateBuildRequested {
        template_id: requested.template.id.to_string(),
        build_id: requested.build.id.to_string(),
        public: requested.template.public,
        names: vec![format!("{}/{alias}", team.slug)],
        tags: requested.tags,
        aliases: vec![alias],
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// What sandboxes of the template may use. Who says nothing gets the usual, or less where the server has less.
fn limits(body: &NewTemplateBuild, max: &TeamLimits) -> Result<Limits, ApiError> {
    let refused = |text: String| Err(ApiError::invalid(text));
    let given = |number: Option<i32>| number.map(i32::unsigned_abs);
    let contact = "(if you need to increase this limit, please contact support)";
    match given(body.cpu_count) {
        Some(count) if count > MAX_CPU_COUNT => {
            return refused(format!("CPU count must be at most {MAX_CPU_COUNT}"));
        }
        Some(count) if count != 1 && count % 2 != 0 => {
            return refused("CPU count must be 1 or an even number".to_owned());
        }
        Some(count) if count > max.max_vcpu => {
            let most = max.max_vcpu;
            return refused(format!("CPU count can't be higher than {most} {contact}"));
        }
        _ => {}
    }
    match given(body.memory_mb) {
        Some(mib) if mib % 2 != 0 => return refused("Memory must be divisible by 2".to_owned()),
        Some(mib) if mib > max.max_memory_mib => {
            let most = max.max_memory_mib;
            return refused(format!("Memory can't be higher than {most} MiB {contact}"));
        }
        _ => {}
    }
    Ok(Limits {
        vcpu_count: given(body.cpu_count).unwrap_or(DEFAULT_CPU_COUNT.min(max.max_vcpu)),
        memory_mib: given(body.memory_mb).unwrap_or(DEFAULT_MEMORY_MIB.min(max.max_memory_mib)),
        ..Limits::STANDARD
    })
}

impl From<RequestBuildError> for ApiError {
    fn from(error: RequestBuildError) -> Self {
        match error {
            RequestBuildError::Store(error) => error.into(),
            RequestBuildError::Deleted { .. }
            | RequestBuildError::AliasIsTemplateId { .. }
            | RequestBuildError::AliasTaken { .. }
            | RequestBuildError::TooMany { .. } => Self::new(error.kind(), error.to_string()),
        }
    }
}
