//! envd, the daemon inside one sandbox: processes and files.

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, CONTENT_TYPE, HeaderName};
use hyper::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api;
use crate::endpoint::SandboxAddress;
use crate::follow::Begin;
use crate::http::{Body, Http, full, json, read_all, refusal};
use crate::process::{
    End, Event, Events, InputBody, ListAnswer, OUTPUT_FROM, PROCESS, ProcessBody, ProcessInfo, Pty,
    Selector, Signal, SignalBody, Size, Start, StartBody, UpdateBody,
};
use crate::tls::Dial;
use crate::{ClientError, Endpoint, Secret, envelope};

/// The port envd listens on in every sandbox.
const ENVD_PORT: u16 = 49983;
/// After this many seconds of silence envd sends a sign of life, so that nothing on the way closes the stream.
const KEEPALIVE_SECONDS: &str = "50";
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// The daemon of one sandbox. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Envd {
    http: Http,
    base: String,
    sandbox_id: String,
    access_token: Option<Secret>,
    /// Whether the base is shared, so that headers must say which sandbox is meant.
    routed_by_header: bool,
}

/// A command's whole output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Written {
    /// Its full path.
    pub path: String,
}

impl Envd {
    pub(crate) fn new(
        http: Http,
        endpoint: &Endpoint,
        sandbox_id: &str,
        domain: Option<&str>,
        access_token: Option<Secret>,
    ) -> Self {
        let (base, routed_by_header) = match &endpoint.sandboxes {
            SandboxAddress::Url(url) => (url.clone(), true),
            SandboxAddress::Domain(configured) => (
                format!(
                    "https://{ENVD_PORT}-{sandbox_id}.{}",
                    domain.unwrap_or(configured)
                ),
                false,
            ),
        };
        Self {
            http,
            base,
            sandbox_id: sandbox_id.to_owned(),
            access_token,
            routed_by_header,
        }
    }

    /// The daemon at the other end of the connections that `dial` makes, for whoever holds the sandbox.
    #[must_use]
    pub fn through(dial: Dial, sandbox_id: &str, access_token: Secret) -> Self {
        Self {
            http: Http::through(dial),
            base: format!("http://localhost:{ENVD_PORT}"),
            sandbox_id: sandbox_id.to_owned(),
            access_token: Some(access_token),
            routed_by_header: false,
        }
    }

    /// The connections to it.
    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    /// Which sandbox it is.
    #[must_use]
    pub fn sandbox_id(&self) -> &str {
        &self.sandbox_id
    }

    fn request(&self, method: Method, path_and_query: &str) -> hyper::http::request::Builder {
        self.request_to(ENVD_PORT, method, path_and_query)
    }

    /// A request to whatever listens on a port of the sandbox.
    pub(crate) fn request_to(
        &self,
        port: u16,
        method: Method,
        path_and_query: &str,
    ) -> hyper::http::request::Builder {
        // Its own host name begins with the port.
        let base = self
            .base
            .replacen(&format!("//{ENVD_PORT}-"), &format!("//{port}-"), 1);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{base}{path_and_query}"));
        if self.routed_by_header {
            request = request
                .header("E2b-Sandbox-Id", &self.sandbox_id)
                .header("E2b-Sandbox-Port", port.to_string());
        }
        if let Some(token) = &self.access_token {
            request = request.header("X-Access-Token", token.expose());
        }
        request
    }

    fn finish(
        &self,
        operation: &str,
        request: hyper::http::request::Builder,
        body: Body,
    ) -> Result<Request<Body>, ClientError> {
        request
            .body(body)
            .map_err(|error| ClientError::request(operation, error))
    }

    async fn unary<T: DeserializeOwned>(
        &self,
        operation: &str,
        method: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ClientError::request(operation, error))?;
        let request = self
            .request(Method::POST, &format!("/process.Process/{method}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header("Connect-Protocol-Version", "1");
        let request = self.finish(operation, request, full(body))?;
        let (status, _, bytes) = self.http.call(operation, request).await?;
        if status == StatusCode::OK {
            json(operation, &bytes)
        } else {
            Err(refusal(operation, status, &bytes))
        }
    }

    async fn stream(
        &self,
        operation: &str,
        method: &str,
        body: &impl Serialize,
        headers: Vec<(HeaderName, String)>,
    ) -> Result<Events, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ClientError::request(operation, error))?;
        let mut request = self
            .request(Method::POST, &format!("/process.Process/{method}"))
            .header(header::CONTENT_TYPE, "application/connect+json")
            .header("Connect-Protocol-Version", "1")
            .header("Keepalive-Ping-Interval", KEEPALIVE_SECONDS);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = self.finish(operation, request, full(envelope::encode(&body)))?;
        Events::of(operation, self.http.send(operation, request).await?).await
    }

    /// Starts a process and follows it.
    ///
    /// # Errors
    /// When it cannot be started; later failures come from the stream.
    pub async fn start(&self, start: &Start) -> Result<Events, ClientError> {
        let mut headers = Vec::new();
        if let Some(user) = &start.user {
            headers.push((header::AUTHORIZATION, basic(user)));
        }
        if let Some(timeout) = start.timeout {
            headers.push((TIMEOUT, timeout.as_millis().to_string()));
        }
        self.stream("start a process", "Start", &StartBody::new(start), headers)
            .await
    }

    /// Follows a process that was started before, by its number and, where it is known, envd's name for it.
    ///
    /// # Errors
    /// When the request fails; an unknown process is reported by the stream.
    pub(crate) async fn connect(
        &self,
        pid: u32,
        begin: Begin,
        process: Option<&str>,
    ) -> Result<Events, ClientError> {
        let mut headers = Vec::new();
        match begin {
            Begin::Now => {}
            Begin::Oldest => headers.push((HeaderName::from_static(OUTPUT_FROM), "oldest".into())),
            Begin::At(at) => headers.push((HeaderName::from_static(OUTPUT_FROM), at.to_string())),
        }
        if let Some(process) = process {
            headers.push((HeaderName::from_static(PROCESS), process.to_owned()));
        }
        self.stream(
            &format!("connect to process {pid}"),
            "Connect",
            &ProcessBody::new(pid),
            headers,
        )
        .await
    }

    /// Starts a process, waits for its end and keeps its output.
    ///
    /// # Errors
    /// When it cannot be started or followed to its end. A bad exit code is no error here.
    pub async fn run(&self, start: &Start) -> Result<Output, ClientError> {
        let mut events = self.start(start).await?;
        let mut output = Output::default();
        let mut ended = false;
        while let Some(event) = events.next().await? {
            match event {
                Event::Started { .. } => {}
                Event::Stdout(data) | Event::Pty(data) => output.stdout.extend_from_slice(&data),
                Event::Stderr(data) => output.stderr.extend_from_slice(&data),
                Event::Ended(end) => {
                    output.end = end;
                    ended = true;
                }
            }
        }
        if ended {
            Ok(output)
        } else {
            Err(ClientError::answer(
                "start a process",
                "the stream does not say how it ended",
            ))
        }
    }

    /// Writes to a process's standard input.
    ///
    /// # Errors
    /// When the process is gone or takes no input.
    pub async fn send_stdin(&self, pid: u32, data: &[u8]) -> Result<(), ClientError> {
        self.empty(
            &format!("write to process {pid}"),
            "SendInput",
            &InputBody::new(pid, "stdin", data),
        )
        .await
    }

    /// Types into a process's terminal.
    ///
    /// # Errors
    /// When the process is gone or has no terminal.
    pub async fn send_pty(&self, pid: u32, data: &[u8]) -> Result<(), ClientError> {
        self.empty(
            &format!("type into process {pid}"),
            "SendInput",
            &InputBody::new(pid, "pty", data),
        )
        .await
    }

    /// Ends a process's standard input.
    ///
    /// # Errors
    /// When the process is gone or has a terminal.
    pub async fn close_stdin(&self, pid: u32) -> Result<(), ClientError> {
        self.empty(
            &format!("close the input of process {pid}"),
            "CloseStdin",
            &ProcessBody::new(pid),
        )
        .await
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    /// When the process is gone.
    pub async fn signal(&self, pid: u32, signal: Signal) -> Result<(), ClientError> {
        let body = SignalBody {
            process: Selector { pid },
            signal: signal.wire(),
        };
        self.empty(
            &format!("send a signal to process {pid}"),
            "SendSignal",
            &body,
        )
        .await
    }

    /// Changes the size of a process's terminal.
    ///
    /// # Errors
    /// When the process is gone or has no terminal.
    pub async fn resize(&self, pid: u32, size: Size) -> Result<(), ClientError> {
        let body = UpdateBody {
            process: Selector { pid },
            pty: Pty { size },
        };
        self.empty(
            &format!("resize the terminal of process {pid}"),
            "Update",
            &body,
        )
        .await
    }

    /// The processes that were started through envd and still run.
    ///
    /// # Errors
    /// When envd does not answer.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>, ClientError> {
        let answer: ListAnswer = self
            .unary("list processes", "List", &serde_json::json!({}))
            .await?;
        Ok(answer.processes)
    }

    async fn empty(
        &self,
        operation: &str,
        method: &str,
        body: &impl Serialize,
    ) -> Result<(), ClientError> {
        let _nothing: serde::de::IgnoredAny = self.unary(operation, method, body).await?;
        Ok(())
    }

    /// Whether envd answers.
    ///
    /// # Errors
    /// Whatever stands between says no, for example that there is no such sandbox.
    pub async fn health(&self) -> Result<(), ClientError> {
        let operation = "check envd";
        let request = self.finish(
            operation,
            self.request(Method::GET, "/health"),
            full(Bytes::new()),
        )?;
        let (status, _, bytes) = self.http.call(operation, request).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(refusal(operation, status, &bytes))
        }
    }

    /// Sets what envd is told by its control plane; the body is that of its `POST /init`. The access token must be the one that is in force until then. Only who
    /// holds the sandbox can do that: the edge lets nobody through.
    ///
    /// # Errors
    /// When envd refuses the token or the body.
    pub async fn init(&self, body: &impl Serialize) -> Result<(), ClientError> {
        let operation = "set up envd";
        let request = self
            .request(Method::POST, "/init")
            .header(CONTENT_TYPE, "application/json");
        let body = api::body(operation, body)?;
        let request = self.finish(operation, request, full(body))?;
        let (status, _, bytes) = self.http.call(operation, request).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(refusal(operation, status, &bytes))
        }
    }

    /// Writes a file from a body that need not be in memory at once. A relative path starts in the user's home.
    ///
    /// # Errors
    /// When envd refuses the path or the disk is full.
    pub async fn upload<B>(
        &self,
        path: &str,
        user: Option<&str>,
        content: B,
    ) -> Result<Written, ClientError>
    where
        B: http_body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        let operation = format!("upload {path}");
        let request = self
            .request(Method::POST, &files_query(path, user))
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let request = self.finish(&operation, request, content.boxed_unsync())?;
        // No deadline: size and disk decide how long it takes.
        let (parts, body) = self.http.send(&operation, request).await?.into_parts();
        let bytes = read_all(&operation, body).await?;
        if parts.status != StatusCode::OK {
            return Err(refusal(&operation, parts.status, &bytes));
        }
        let written: Vec<Written> = json(&operation, &bytes)?;
        written
            .into_iter()
            .next()
            .ok_or_else(|| ClientError::answer(&operation, "no file in it"))
    }

    /// Writes a file that is in memory.
    ///
    /// # Errors
    /// When envd refuses the path or the disk is full.
    pub async fn write(
        &self,
        path: &str,
        user: Option<&str>,
        content: impl Into<Bytes>,
    ) -> Result<Written, ClientError> {
        let body = http_body_util::Full::new(content.into()).map_err(|never| match never {});
        self.upload(path, user, body).await
    }

    /// Opens a file for reading, piece by piece.
    ///
    /// # Errors
    /// When it does not exist, is a directory, or may not be read.
    pub async fn download(&self, path: &str, user: Option<&str>) -> Result<Download, ClientError> {
        let operation = format!("download {path}");
        let request = self
            .request(Method::GET, &files_query(path, user))
            .header(header::ACCEPT_ENCODING, "identity");
        let request = self.finish(&operation, request, full(Bytes::new()))?;
        let (parts, body) = self.http.send(&operation, request).await?.into_parts();
        if parts.status != StatusCode::OK {
            let bytes = read_all(&operation, body).await?;
            return Err(refusal(&operation, parts.status, &bytes));
        }
        Ok(Download { operation, body })
    }
}

/// A file being read.
#[derive(Debug)]
pub struct Download {
    operation: String,
    body: Incoming,
}

impl Download {
    /// The next piece; None at the end of the file.
    ///
    /// # Errors
    /// When the connection breaks before the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| ClientError::broken(&self.operation, error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

fn basic(user: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:").as_bytes()))
}

fn files_query(path: &str, user: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("path", path);
    if let Some(user) = user {
        query.append_pair("username", user);
    }
    format!("/files?{}", query.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        assert_eq!(basic("root"), "Basic cm9vdDo=");
        assert_eq!(
            files_query("/a b&c", Some("user")),
            "/files?path=%2Fa+b%26c&username=user"
        );
    }
}
