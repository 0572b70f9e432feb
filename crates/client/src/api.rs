//! The control plane: sandboxes, templates, keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::http::request;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use soulbox_api_types::admin::{CollectGarbage, GarbageCollected};
use soulbox_api_types::logs::{SandboxLogEntry, SandboxLogsV2};
use soulbox_api_types::metrics::SandboxMetric;
use soulbox_api_types::sandbox::{
    ConnectSandbox, ListedSandbox, NewSandbox, PauseSandbox, Sandbox, SandboxDetail, SandboxTimeout,
};
use soulbox_api_types::team::{ApiKeyName, CreatedTeamApiKey, TeamApiKey};
use soulbox_api_types::template::Template;

use crate::http::{Http, full, json, refusal};
use crate::{ClientError, Endpoint, Envd, Interpreter, Secret};

/// Everything but what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The control plane of one server. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Api {
    http: Http,
    endpoint: Endpoint,
}

/// Reads `Server-Timing`: names with durations in milliseconds.
fn steps(told: &str) -> Vec<(String, Duration)> {
    let metrics = told.split(", ");
    metrics
        .filter_map(|metric| {
            let (name, milliseconds) = metric.split_once(";dur=")?;
            let seconds = milliseconds.parse::<f64>().ok()? / 1000.0;
            let took = Duration::try_from_secs_f64(seconds).ok()?;
            Some((name.to_owned(), took))
        })
        .collect()
}

/// Which sandboxes to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only those with all these labels.
    pub metadata: Vec<(String, String)>,
    /// Only those in one of these states; empty means all.
    pub states: Vec<&'static str>,
    /// At most this many on a page, 1 to 100.
    pub limit: Option<u32>,
    /// Where the last page ended.
    pub next_token: Option<String>,
}

impl ListQuery {
    fn path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.metadata.is_empty() {
            // As the SDKs do it: each part percent-encoded, joined like a form, and the whole encoded once more.
            let inner = self.metadata.iter().fold(
                form_urlencoded::Serializer::new(String::new()),
                |mut inner, (key, value)| {
                    inner.append_pair(&segment(key), &segment(value));
                    inner
                },
            );
            let mut inner = inner;
            query.append_pair("metadata", &inner.finish());
        }
        if !self.states.is_empty() {
            query.append_pair("state", &self.states.join(","));
        }
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        if let Some(token) = &self.next_token {
            query.append_pair("nextToken", token);
        }
        with_query("/v2/sandboxes", &query.finish())
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// How to ask for the next one; None on the last.
    pub next_token: Option<String>,
    /// How many run in all, where the server says.
    pub total_running: Option<u64>,
}

/// Which log entries to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogsQuery {
    /// From this time on, in milliseconds since 1970; everything that is kept when absent.
    pub since_millis: Option<i64>,
    /// Nothing below this level.
    pub level: Option<&'static str>,
    /// At most this many, up to 1000.
    pub limit: Option<u32>,
}

impl LogsQuery {
    fn path(&self, id: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair(
            "direction",
            if self.since_millis.is_some() {
                "forward"
            } else {
                "backward"
            },
        );
        if let Some(since) = self.since_millis {
            query.append_pair("cursor", &since.to_string());
        }
        if let Some(level) = self.level {
            query.append_pair("level", level);
        }
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        with_query(
            &format!("/v2/sandboxes/{}/logs", segment(id)),
            &query.finish(),
        )
    }
}

impl Api {
    /// Connects when first asked something.
    ///
    /// # Errors
    /// When HTTPS is needed and cannot be set up.
    pub fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        Ok(Self {
            http: Http::new(&endpoint)?,
            endpoint,
        })
    }

    /// Whom it talks to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The same server over connections of its own.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub fn separate(&self) -> Result<Self, ClientError> {
        Self::new(self.endpoint.clone())
    }

    pub(crate) async fn call(
        &self,
        operation: &str,
        method: Method,
        path_and_query: &str,
        identity: (&'static str, &Option<Secret>),
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        let uri = format!("{}{path_and_query}", self.endpoint.api_url);
        let request = Request::builder().method(method).uri(uri);
        self.finish(operation, request, identity, body).await
    }

    async fn finish(
        &self,
        operation: &str,
        mut request: request::Builder,
        identity: (&'static str, &Option<Secret>),
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        if let (header, Some(secret)) = identity {
            request = request.header(header, secret.expose());
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(full(body.unwrap_or_default()))
            .map_err(|error| ClientError::request(operation, error))?;
        let (status, headers, bytes) = self.http.call(operation, request).await?;
        if status.is_success() {
            Ok((status, headers, bytes))
        } else {
            Err(refusal(operation, status, &bytes))
        }
    }

    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    /// Sends a GET for the team; the answer's body is still to come, and there is no deadline.
    pub(crate) async fn open(
        &self,
        operation: &str,
        path_and_query: &str,
    ) -> Result<Response<Incoming>, ClientError> {
        let uri = format!("{}{path_and_query}", self.endpoint.api_url);
        let mut request = Request::builder().method(Method::GET).uri(uri);
        if let (header, Some(secret)) = self.team() {
            request = request.header(header, secret.expose());
        }
        let request = request
            .body(full(Bytes::new()))
            .map_err(|error| ClientError::request(operation, error))?;
        self.http.send(operation, request).await
    }

    pub(crate) fn team(&self) -> (&'static str, &Option<Secret>) {
        ("X-API-Key", &self.endpoint.api_key)
    }

    fn admin(&self) -> (&'static str, &Option<Secret>) {
        ("X-Admin-Token", &self.endpoint.admin_token)
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        operation: &str,
        path: &str,
    ) -> Result<T, ClientError> {
        let (_, _, bytes) = self
            .call(operation, Method::GET, path, self.team(), None)
            .await?;
        json(operation, &bytes)
    }

    /// Creates a sandbox; it is usable when this returns.
    ///
    /// # Errors
    /// When the server refuses, for example an unknown template or too many sandboxes.
    pub async fn create(&self, new: &NewSandbox) -> Result<Sandbox, ClientError> {
        let operation = format!("create a sandbox from {}", new.template_id);
        let body = body(&operation, new)?;
        let (_, _, bytes) = self
            .call(
                &operation,
                Method::POST,
                "/v2/sandboxes",
                self.team(),
                Some(body),
            )
            .await?;
        json(&operation, &bytes)
    }

    /// Creates a sandbox, and has the server say how long each of its steps took, in order.
    ///
    /// # Errors
    /// As [`Api::create`].
    pub async fn create_timed(
        &self,
        new: &NewSandbox,
    ) -> Result<(Sandbox, Vec<(String, Duration)>), ClientError> {
        let operation = format!("create a sandbox from {}", new.template_id);
        let body = body(&operation, new)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v2/sandboxes", self.endpoint.api_url))
            .header("soulbox-timing", "1");
        let (_, headers, bytes) = self
            .finish(&operation, request, self.team(), Some(body))
            .await?;
        let told = headers.get("server-timing");
        let told = told.and_then(|value| value.to_str().ok()).unwrap_or("");
        Ok((json(&operation, &bytes)?, steps(told)))
    }

    /// One page of sandboxes, newest first.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn list(&self, query: &ListQuery) -> Result<Page<ListedSandbox>, ClientError> {
        let operation = "list sandboxes";
        let (_, headers, bytes) = self
            .call(operation, Method::GET, &query.path(), self.team(), None)
            .await?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Page {
            items: json(operation, &bytes)?,
            next_token: text("x-next-token")
                .filter(|token| !token.is_empty())
                .map(ToOwned::to_owned),
            total_running: text("x-total-running").and_then(|number| number.parse().ok()),
        })
    }

    /// Sandboxes of all pages, up to `most`.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn list_all(
        &self,
        mut query: ListQuery,
        most: usize,
    ) -> Result<Vec<ListedSandbox>, ClientError> {
        let mut all = Vec::new();
        loop {
            let page = self.list(&query).await?;
            all.extend(page.items);
            if all.len() >= most || page.next_token.is_none() {
                all.truncate(most);
                return Ok(all);
            }
            query.next_token = page.next_token;
        }
    }

    /// One sandbox.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn get_sandbox(&self, id: &str) -> Result<SandboxDetail, ClientError> {
        self.get(
            &format!("look at sandbox {id}"),
            &format!("/sandboxes/{}", segment(id)),
        )
        .await
    }

    /// Kills a sandbox; false when there is none.
    ///
    /// # Errors
    /// When the server cannot.
    pub async fn kill(&self, id: &str) -> Result<bool, ClientError> {
        let operation = format!("kill sandbox {id}");
        let path = format!("/sandboxes/{}", segment(id));
        match self
            .call(&operation, Method::DELETE, &path, self.team(), None)
            .await
        {
            Ok(_) => Ok(true),
            Err(ClientError::Refused {
                code: crate::Code::Http(404),
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves a sandbox's end to so many seconds from now.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn set_timeout(&self, id: &str, seconds: i32) -> Result<(), ClientError> {
        let operation = format!("set the timeout of sandbox {id}");
        let body = body(&operation, &SandboxTimeout { timeout: seconds })?;
        let path = format!("/sandboxes/{}/timeout", segment(id));
        self.call(&operation, Method::POST, &path, self.team(), Some(body))
            .await
            .map(|_| ())
    }

    /// Pauses a sandbox; false when it is paused already.
    ///
    /// # Errors
    /// When it does not exist, or cannot be kept; then it runs on.
    pub async fn pause(&self, id: &str, wanted: &PauseSandbox) -> Result<bool, ClientError> {
        let operation = format!("pause sandbox {id}");
        let body = body(&operation, wanted)?;
        let path = format!("/sandboxes/{}/pause", segment(id));
        match self
            .call(&operation, Method::POST, &path, self.team(), Some(body))
            .await
        {
            Ok(_) => Ok(true),
            Err(ClientError::Refused {
                code: crate::Code::Http(409),
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Connects to a sandbox: wakes it when it is paused, and makes sure of the time that is left.
    ///
    /// # Errors
    /// When it does not exist, or cannot be brought back.
    pub async fn connect(&self, id: &str, wanted: &ConnectSandbox) -> Result<Sandbox, ClientError> {
        let operation = format!("connect to sandbox {id}");
        let body = body(&operation, wanted)?;
        let path = format!("/v2/sandboxes/{}/connect", segment(id));
        let (_, _, bytes) = self
            .call(&operation, Method::POST, &path, self.team(), Some(body))
            .await?;
        json(&operation, &bytes)
    }

    /// Samples of what a sandbox uses, oldest first. `start` in seconds since 1970.
    ///
    /// # Errors
    /// When the server refuses. An unknown sandbox has no samples.
    pub async fn metrics(
        &self,
        id: &str,
        start: Option<i64>,
    ) -> Result<Vec<SandboxMetric>, ClientError> {
        let query = start
            .map(|start| format!("start={start}"))
            .unwrap_or_default();
        let path = with_query(&format!("/sandboxes/{}/metrics", segment(id)), &query);
        self.get(&format!("read the metrics of sandbox {id}"), &path)
            .await
    }

    /// Log entries of a sandbox, oldest first.
    ///
    /// # Errors
    /// When the server refuses. An unknown sandbox has no entries.
    pub async fn logs(
        &self,
        id: &str,
        query: &LogsQuery,
    ) -> Result<Vec<SandboxLogEntry>, ClientError> {
        let answer: SandboxLogsV2 = self
            .get(&format!("read the logs of sandbox {id}"), &query.path(id))
            .await?;
        let mut entries = answer.logs;
        if query.since_millis.is_none() {
            entries.reverse();
        }
        Ok(entries)
    }

    /// Templates.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn templates(&self) -> Result<Vec<Template>, ClientError> {
        self.get("list templates", "/templates").await
    }

    /// Has the server remove the files that nothing needs, or tell which they are.
    ///
    /// # Errors
    /// When the operator's token is missing or wrong, or a template is being built.
    pub async fn collect_garbage(
        &self,
        wanted: CollectGarbage,
    ) -> Result<GarbageCollected, ClientError> {
        let operation = "collect garbage";
        let body = body(operation, &wanted)?;
        let (_, _, bytes) = self
            .call(
                operation,
                Method::POST,
                "/admin/gc",
                self.admin(),
                Some(body),
            )
            .await?;
        json(operation, &bytes)
    }

    /// Keys of the default team, without the keys themselves.
    ///
    /// # Errors
    /// When the operator's token is missing or wrong.
    pub async fn keys(&self) -> Result<Vec<TeamApiKey>, ClientError> {
        let operation = "list API keys";
        let (_, _, bytes) = self
            .call(operation, Method::GET, "/api-keys", self.admin(), None)
            .await?;
        json(operation, &bytes)
    }

    /// Makes a key of the default team.
    ///
    /// # Errors
    /// When the operator's token is missing or wrong.
    pub async fn create_key(&self, name: &str) -> Result<CreatedTeamApiKey, ClientError> {
        let operation = "create an API key";
        let body = body(
            operation,
            &ApiKeyName {
                name: name.to_owned(),
            },
        )?;
        let (_, _, bytes) = self
            .call(
                operation,
                Method::POST,
                "/api-keys",
                self.admin(),
                Some(body),
            )
            .await?;
        json(operation, &bytes)
    }

    /// Makes a key useless.
    ///
    /// # Errors
    /// When there is no such key, or the operator's token is missing or wrong.
    pub async fn revoke_key(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/api-keys/{}", segment(id));
        self.call(
            &format!("revoke API key {id}"),
            Method::DELETE,
            &path,
            self.admin(),
            None,
        )
        .await
        .map(|_| ())
    }

    /// The daemon in a sandbox, from what create or connect answered.
    #[must_use]
    pub fn envd(&self, sandbox: &Sandbox) -> Envd {
        let token = sandbox.envd_access_token.clone().map(Secret::new);
        Envd::new(
            self.http.clone(),
            &self.endpoint,
            &sandbox.sandbox_id,
            sandbox.domain.as_deref(),
            token,
        )
    }

    /// The code interpreter of a sandbox, if its template has one.
    #[must_use]
    pub fn interpreter(&self, sandbox: &Sandbox) -> Interpreter {
        let token = sandbox.traffic_access_token.clone().map(Secret::new);
        Interpreter::new(self.envd(sandbox), token)
    }

    /// The same from what a look at the sandbox answered. Traffic that wants a token is not let in.
    #[must_use]
    pub fn interpreter_of_detail(&self, sandbox: &SandboxDetail) -> Interpreter {
        Interpreter::new(self.envd_of_detail(sandbox), None)
    }

    /// The daemon from what a look at the sandbox answered, which leaves its end time alone.
    #[must_use]
    pub fn envd_of_detail(&self, sandbox: &SandboxDetail) -> Envd {
        let token = sandbox.envd_access_token.clone().map(Secret::new);
        Envd::new(
            self.http.clone(),
            &self.endpoint,
            &sandbox.sandbox_id,
            sandbox.domain.as_deref(),
            token,
        )
    }
}

/// A create request with nothing but a template.
#[must_use]
pub fn new_sandbox(template: &str) -> NewSandbox {
    NewSandbox {
        template_id: template.to_owned(),
        metadata: Some(BTreeMap::new()),
        env_vars: Some(BTreeMap::new()),
        ..NewSandbox::default()
    }
}

pub(crate) fn body(operation: &str, value: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(value).map_err(|error| ClientError::request(operation, error))
}

pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(ListQuery::default().path(), "/v2/sandboxes");
        let query = ListQuery {
            metadata: vec![("a b".to_owned(), "1&2".to_owned())],
            states: vec!["running", "paused"],
            limit: Some(5),
            next_token: Some("x=".to_owned()),
        };
        // The value decodes to `a%2520b=1%25262`, that to `a%20b=1%262`, that to `a b` and `1&2`.
        assert_eq!(
            query.path(),
            "/v2/sandboxes?metadata=a%252520b%3D1%25252 62&state=running%2Cpaused&limit=5&nextToken=x%3D".replace(' ', "")
        );
        assert_eq!(segment("team/name:tag"), "team%2Fname%3Atag");
        assert_eq!(
            LogsQuery::default().path("i1"),
            "/v2/sandboxes/i1/logs?direction=backward"
        );
    }
}
