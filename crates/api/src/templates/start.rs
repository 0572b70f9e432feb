//! `POST /v2/templates/{templateID}/builds/{buildID}`: a build that waits begins.

use axum::extract::State;
use http::{HeaderMap, StatusCode, header};
use soulbox_api_types::build::{ImageRegistry, StartTemplateBuild, TemplateStep};
use soulbox_builder::{BuildRequest, Credentials, Runtime, Source, StartBuildError, Step};
use soulbox_store::BuildStatus;
use soulbox_types::{BuildId, ErrorKind};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArgs};
use crate::observe;
use crate::state::Shared;
use crate::templates::access::by_id;
use crate::templates::builds::parse_build_id;
use crate::templates::uploads::is_files_hash;
use crate::templates::user_agent;

impl Body for StartTemplateBuild {
    fn check(&self) -> Result<(), String> {
        let given =
            |step: &&TemplateStep| step.files_hash.as_deref().is_some_and(|h| !h.is_empty());
        let mut hashes = self.steps.iter().filter(given);
        if hashes.all(|step| step.files_hash.as_deref().is_some_and(is_files_hash)) {
            Ok(())
        } else {
            Err("steps: filesHash: must be 64 hexadecimal digits".to_owned())
        }
    }
}

pub(crate) async fn start(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    headers: HeaderMap,
    JsonBody(body): JsonBody<StartTemplateBuild>,
) -> Result<StatusCode, ApiError> {
    let (id, build) = (path.get("templateID"), path.get("buildID"));
    let build_id: BuildId = parse_build_id(build, &format!("Invalid build ID: {build}"))?;
    let missing = || {
        ApiError::not_found(format!(
            "Error when getting template: build '{build_id}' not found"
        ))
    };
    let template = by_id(&api, id).await?.ok_or_else(missing)?.template;
    let build = api.store.find_build(&template.id, &build_id).await?;
    let build = build.ok_or_else(missing)?;
    if template.team != team.id {
        return Err(ApiError::new(
            ErrorKind::PermissionDenied,
            "User does not have access to the template",
        ));
    }
    if build.status != BuildStatus::Waiting {
        return Err(not_waiting());
    }
    let request = request_of(body, runtime(&headers)?)?;
    // In a task of its own: a client that hangs up must not leave a build in progress that nobody works on.
    let start = async move { api.builds.start(team, template, build, request).await };
    let started = tokio::spawn(observe::carried(start)).await;
    match started.map_err(ApiError::internal)? {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(StartBuildError::NotWaiting) => Err(not_waiting()),
        Err(StartBuildError::Store(error)) => Err(error.into()),
    }
}

fn not_waiting() -> ApiError {
    ApiError::invalid("build is not in waiting state")
}

fn runtime(headers: &HeaderMap) -> Result<Runtime, ApiError> {
    let agent = headers.get(header::USER_AGENT).map(|v| v.as_bytes());
    let agent = String::from_utf8_lossy(agent.unwrap_or_default());
    user_agent::runtime(&agent)
        .map_err(|error| ApiError::invalid(format!("Error when parsing user agent: {error}")))
}

fn request_of(body: StartTemplateBuild, runtime: Runtime) -> Result<BuildRequest, ApiError> {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let source = match (some(body.from_image), some(body.from_template)) {
        (Some(reference), None) => Source::Image {
            reference,
            credentials: body.from_image_registry.map(credentials),
        },
        (None, Some(reference)) => Source::Template(reference),
        (Some(_), Some(_)) => {
            let message = "cannot specify both fromImage and fromTemplate";
            return Err(ApiError::invalid(message));
        }
        (None, None) => {
            let message = "must specify either fromImage or fromTemplate";
            return Err(ApiError::invalid(message));
        }
    };
    let step = |step: TemplateStep| Step {
        kind: step.r#type,
        args: step.args,
        files_hash: some(step.files_hash),
        force: step.force.unwrap_or(false),
    };
    Ok(BuildRequest {
        source,
        steps: body.steps.into_iter().map(step).collect(),
        start_cmd: some(body.start_cmd),
        ready_cmd: some(body.ready_cmd),
        force: body.force.unwrap_or(false),
        runtime,
    })
}

fn credentials(registry: ImageRegistry) -> Credentials {
    match registry {
        ImageRegistry::Registry { username, password } => Credentials::Basic { username, password },
        ImageRegistry::Aws {
            aws_access_key_id,
            aws_secret_access_key,
            aws_region,
        } => Credentials::Aws {
            access_key_id: aws_access_key_id,
            secret_access_key: aws_secret_access_key,
            region: aws_region,
        },
        ImageRegistry::Gcp {
            service_account_json,
        } => Credentials::Gcp {
            service_account_json,
        },
    }
}
