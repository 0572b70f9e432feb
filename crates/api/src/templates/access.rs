//! From what a caller writes to a template that the caller may see. Each endpoint has its own words for a refusal.

use soulbox_store::{Team, Template, TemplateSummary};
use soulbox_types::name::TemplateRef;
use soulbox_types::{ErrorKind, TemplateId};

use crate::error::ApiError;
use crate::state::Api;

/// Parses a reference; the endpoint's words come before the parser's.
pub(crate) fn reference(text: &str, what: &str) -> Result<TemplateRef, ApiError> {
    text.parse()
        .map_err(|error| ApiError::invalid(format!("{what}: {error}")))
}

/// A namespace, where given, must be the team's own.
pub(crate) fn own_namespace(team: &Team, reference: &TemplateRef) -> Result<(), ApiError> {
    match &reference.namespace {
        Some(namespace) if *namespace != team.slug => {
            let message = format!(
                "namespace '{namespace}' must match your team '{}'",
                team.slug
            );
            Err(ApiError::invalid(message))
        }
        _ => Ok(()),
    }
}

/// The template that a reference names, whoever owns it.
pub(crate) async fn named(
    api: &Api,
    team: &Team,
    reference: &TemplateRef,
) -> Result<Template, ApiError> {
    let found = api.store.find_template(team, reference).await?;
    found.ok_or_else(|| not_found(&reference.identifier()))
}

/// The same, and it must be the team's.
pub(crate) async fn named_own(
    api: &Api,
    team: &Team,
    reference: &TemplateRef,
) -> Result<Template, ApiError> {
    let template = named(api, team, reference).await?;
    must_own(team, &template, reference)?;
    Ok(template)
}

/// A template must be the team's; the name in the refusal is the caller's.
pub(crate) fn must_own(
    team: &Team,
    template: &Template,
    reference: &TemplateRef,
) -> Result<(), ApiError> {
    if template.team == team.id {
        return Ok(());
    }
    let message = format!(
        "You don't have access to sandbox template '{}'",
        reference.identifier()
    );
    Err(ApiError::new(ErrorKind::PermissionDenied, message))
}

/// The template with this id, which no alias stands for; none also when the text is no id.
pub(crate) async fn by_id(api: &Api, text: &str) -> Result<Option<TemplateSummary>, ApiError> {
    match text.parse::<TemplateId>() {
        Ok(id) => Ok(api.store.get_template(&id).await?),
        Err(_) => Ok(None),
    }
}

/// The common answer for a template that is not there.
pub(crate) fn not_found(name: &str) -> ApiError {
    ApiError::not_found(format!("template '{name}' not found"))
}

/// The answer of the endpoints that take a raw id, for a template of another team.
pub(crate) fn foreign(id: &str) -> ApiError {
    let message = format!("You don't have access to this sandbox template ({id})");
    ApiError::new(ErrorKind::PermissionDenied, message)
}
