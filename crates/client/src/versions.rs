//! Versions of templates and the catalogue: SoulBox's own part of the API.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response, header};
use soulbox_api_types::catalogue::CatalogueTemplate;
use soulbox_api_types::difference::TemplateDifference;
use soulbox_api_types::template::{
    TemplateBuild, TemplateUpdate, TemplateUpdated, TemplateWithBuilds,
};

use crate::api::{Page, segment};
use crate::http::{json, read_all, refusal};
use crate::{Api, ClientError};

/// Of answers for which the server reads whole templates; a little more than it takes at most.
const SLOW_TIMEOUT: Duration = Duration::from_mins(31);

impl Api {
    /// All builds of a template, newest first.
    ///
    /// # Errors
    /// When there is no template with this id, or the server refuses.
    pub async fn template_builds(&self, id: &str) -> Result<Vec<TemplateBuild>, ClientError> {
        let operation = format!("list the versions of template {id}");
        let mut query = vec![("limit", "100".to_owned())];
        let mut builds = Vec::new();
        loop {
            let path = with_pairs(&format!("/templates/{}", segment(id)), &query);
            let page: Page<TemplateBuild> = self
                .page(&operation, &path, |template: TemplateWithBuilds| {
                    template.builds
                })
                .await?;
            builds.extend(page.items);
            match page.next_token {
                Some(token) => {
                    query.truncate(1);
                    query.push(("nextToken", token));
                }
                None => return Ok(builds),
            }
        }
    }

    /// Says what a template is; an empty text takes away what was said.
    ///
    /// # Errors
    /// When there is none of this name, the text is too long, or the server refuses.
    pub async fn describe_template(
        &self,
        name: &str,
        description: &str,
    ) -> Result<TemplateUpdated, ClientError> {
        let operation = format!("describe template {name}");
        let wanted = TemplateUpdate {
            public: None,
            description: Some(description.to_owned()),
        };
        self.update_template(&operation, name, &wanted).await
    }

    /// Own and public templates that have these words, best match first, at most a hundred.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn search_templates(
        &self,
        words: &str,
        limit: u32,
    ) -> Result<Page<CatalogueTemplate>, ClientError> {
        let pairs = [("query", words.to_owned()), ("limit", limit.to_string())];
        let path = with_pairs("/template-catalogue", &pairs);
        self.page("search templates", &path, |items| items).await
    }

    /// What differs between two builds of a template, each named by a version, a tag or its id. `to` is what is in use
    /// when absent; `files` is how many files are listed.
    ///
    /// # Errors
    /// When there is no such template or build, or the server refuses.
    pub async fn compare_builds(
        &self,
        name: &str,
        from: &str,
        to: Option<&str>,
        files: u32,
    ) -> Result<TemplateDifference, ClientError> {
        let operation = format!("compare versions of template {name}");
        let mut pairs = vec![("from", from.to_owned()), ("limit", files.to_string())];
        pairs.extend(to.map(|to| ("to", to.to_owned())));
        let path = with_pairs(&format!("/templates/{}/diff", segment(name)), &pairs);
        let body = self.slow(&operation, &path).await?.into_body();
        json(&operation, &read_all(&operation, body).await?)
    }

    /// A build as an OCI image in one tar file: that of a version, a tag or an id.
    ///
    /// # Errors
    /// When there is no such template or build, the server's disk is full, or the server refuses.
    pub async fn export_build(&self, name: &str, build: &str) -> Result<Export, ClientError> {
        let operation = format!("export template {name}");
        let pairs = [("build", build.to_owned())];
        let path = with_pairs(&format!("/templates/{}/export", segment(name)), &pairs);
        let response = self.slow(&operation, &path).await?;
        Export::of(operation, response)
    }

    /// Asks for something that takes its time, and waits until the answer begins.
    async fn slow(&self, operation: &str, path: &str) -> Result<Response<Incoming>, ClientError> {
        let answer = self.open(operation, path);
        let response = match tokio::time::timeout(SLOW_TIMEOUT, answer).await {
            Ok(response) => response?,
            Err(_) => {
                return Err(ClientError::Timeout {
                    operation: operation.to_owned(),
                    after: SLOW_TIMEOUT,
                });
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = read_all(operation, response.into_body()).await?;
        Err(refusal(operation, status, &said))
    }

    pub(crate) async fn page<T: serde::de::DeserializeOwned, I>(
        &self,
        operation: &str,
        path: &str,
        items: impl FnOnce(T) -> Vec<I>,
    ) -> Result<Page<I>, ClientError> {
        let (_, headers, bytes) = self
            .call(operation, Method::GET, path, self.team(), None)
            .await?;
        let token = headers.get("x-next-token");
        let token = token.and_then(|value| value.to_str().ok());
        Ok(Page {
            items: items(json(operation, &bytes)?),
            next_token: token.filter(|token| !token.is_empty()).map(str::to_owned),
            total_running: None,
        })
    }
}

/// A file on its way here: a template, or one of a volume.
#[derive(Debug)]
pub struct Export {
    operation: String,
    /// Bytes of the whole file.
    pub size_bytes: u64,
    body: Incoming,
}

impl Export {
    pub(crate) fn of(operation: String, response: Response<Incoming>) -> Result<Self, ClientError> {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let size_bytes = length
            .ok_or_else(|| ClientError::answer(&operation, "it does not say how long it is"))?;
        Ok(Self {
            operation,
            size_bytes,
            body: response.into_body(),
        })
    }

    /// The next piece; None at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| ClientError::broken(&self.operation, error))?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

pub(crate) fn with_pairs(path: &str, pairs: &[(&str, String)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    format!("{path}?{}", query.finish())
}
