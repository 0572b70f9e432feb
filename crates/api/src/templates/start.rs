//! `POST /v2/templates/{templateID}/builds/{buildID}`: a build that waits begins.

use axum::extract::State;
use http::{HeaderMap, StatusCode, header};
use soulbox_api_types::build::{ImageRegistry, StartTemplateBuild, TemplateStep};
use soulbox_builder::{BuildRequest, Credentials, Recipe, Runtime, Source, StartBuildError, Step};
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
        if !hashes.all(|step| step.files_hash.as_deref().is_some_and(is_files_hash)) {
            return Err("steps: filesHash: must be 64 hexadecimal digits".to_owned());
        }
        let context = self
            .from_dockerfile
            .as_ref()
            .and_then(|from| from.context_hash.as_deref());
        let files = [&self.from_rootfs, &self.from_archive];
        let mut others = files
            .into_iter()
            .flatten()
            .map(|from| from.files_hash.as_str());
        if context
            .into_iter()
            .filter(|hash| !hash.is_empty())
            .all(is_files_hash)
            && others.all(is_files_hash)
        {
            Ok(())
        } else {
            Err("contextHash, filesHash: must be 64 hexadecimal digits".to_owned())
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
    let source = source_of(&body)?;
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

/// The one place that a build starts from.
fn source_of(body: &StartTemplateBuild) -> Result<Source, ApiError> {
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let credentials = || body.from_image_registry.clone().map(credentials);
    let (image, template) = (some(&body.from_image), some(&body.from_template));
    if image.is_some() && template.is_some() {
        let message = "cannot specify both fromImage and fromTemplate";
        return Err(ApiError::invalid(message));
    }
    let all = [
        image.map(|reference| Source::Image {
            reference,
            credentials: credentials(),
        }),
        template.map(Source::Template),
        body.from_dockerfile.clone().map(|from| Source::Dockerfile {
            recipe: Recipe {
                dockerfile: from.dockerfile,
                context_hash: some(&from.context_hash),
                build_args: from.build_args,
                target: some(&from.target),
            },
            credentials: credentials(),
        }),
        body.from_rootfs
            .clone()
            .map(|from| Source::Rootfs(from.files_hash)),
        body.from_archive
            .clone()
            .map(|from| Source::Archive(from.files_hash)),
    ];
    let mut given = all.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(Source::Dockerfile { .. }), None) if !body.steps.is_empty() => {
            Err(ApiError::invalid("steps: a Dockerfile has its own"))
        }
        (Some(source), None) => Ok(source),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "a build starts from one source, not from several",
        )),
        (None, _) => Err(ApiError::invalid(
            "must specify either fromImage or fromTemplate",
        )),
    }
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
