//! Templates: what they are, their builds and tags, and what an owner does to them.

use hyper::Method;
use soulbox_api_types::tag::{AssignTags, AssignedTags, TemplateTag};
use soulbox_api_types::template::{
    TemplateAlias, TemplateUpdate, TemplateUpdated, TemplateWithBuilds,
};

use crate::api::{body, segment};
use crate::http::json;
use crate::{Api, ClientError};

impl Api {
    /// Whom a name stands for. An id stands for itself.
    ///
    /// # Errors
    /// When nothing has this name, or the server refuses.
    pub async fn template_of_name(&self, name: &str) -> Result<TemplateAlias, ClientError> {
        let operation = format!("look up template {name}");
        self.get(&operation, &format!("/templates/aliases/{}", segment(name)))
            .await
    }

    /// One template with its newest builds, at most a hundred.
    ///
    /// # Errors
    /// When there is none with this id, or the server refuses.
    pub async fn template(&self, id: &str) -> Result<TemplateWithBuilds, ClientError> {
        let operation = format!("look at template {id}");
        self.get(&operation, &format!("/templates/{}?limit=100", segment(id)))
            .await
    }

    /// What each tag of a template stands for.
    ///
    /// # Errors
    /// When there is no such template, or the server refuses.
    pub async fn template_tags(&self, name: &str) -> Result<Vec<TemplateTag>, ClientError> {
        let operation = format!("list the tags of template {name}");
        self.get(&operation, &format!("/templates/{}/tags", segment(name)))
            .await
    }

    /// Makes tags stand for a build: that of `target`, a name with a tag or with the id of a build in its place.
    ///
    /// # Errors
    /// When there is no such build that can be used, or the server refuses.
    pub async fn assign_tags(
        &self,
        target: &str,
        tags: &[String],
    ) -> Result<AssignedTags, ClientError> {
        let operation = format!("assign tags to {target}");
        let wanted = AssignTags {
            target: target.to_owned(),
            tags: tags.to_vec(),
        };
        let body = body(&operation, &wanted)?;
        let (_, _, bytes) = self
            .call(
                &operation,
                Method::POST,
                "/templates/tags",
                self.team(),
                Some(body),
            )
            .await?;
        json(&operation, &bytes)
    }

    /// Says whether other teams may use a template.
    ///
    /// # Errors
    /// When there is none of this name, or the server refuses.
    pub async fn publish_template(
        &self,
        name: &str,
        public: bool,
    ) -> Result<TemplateUpdated, ClientError> {
        let operation = format!("change template {name}");
        let wanted = TemplateUpdate {
            public: Some(public),
            description: None,
        };
        self.update_template(&operation, name, &wanted).await
    }

    pub(crate) async fn update_template(
        &self,
        operation: &str,
        name: &str,
        wanted: &TemplateUpdate,
    ) -> Result<TemplateUpdated, ClientError> {
        let body = body(operation, wanted)?;
        let path = format!("/v2/templates/{}", segment(name));
        let (_, _, bytes) = self
            .call(operation, Method::PATCH, &path, self.team(), Some(body))
            .await?;
        json(operation, &bytes)
    }

    /// Deletes a template with all its builds.
    ///
    /// # Errors
    /// When there is none of this name, sandboxes of it run, or the server refuses.
    pub async fn delete_template(&self, name: &str) -> Result<(), ClientError> {
        let operation = format!("delete template {name}");
        let path = format!("/templates/{}", segment(name));
        self.call(&operation, Method::DELETE, &path, self.team(), None)
            .await
            .map(drop)
    }
}
