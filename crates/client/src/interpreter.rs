//! The code interpreter of one sandbox: code in, results out, on the wire of `e2b-code-interpreter`.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::segment;
use crate::http::{full, json, read_all, refusal};
use crate::{ClientError, Envd, Secret};

/// The port that it listens on.
const PORT: u16 = 49999;
/// A line longer than this is none of ours.
const MAX_LINE_BYTES: usize = 512 * 1024 * 1024;

/// The code interpreter of one sandbox. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interpreter {
    envd: Envd,
    traffic_token: Option<Secret>,
}

/// Where code runs: variables of one context are not seen in another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Context {
    /// Its id.
    pub id: String,
    /// The language of its kernel.
    pub language: String,
    /// Its working directory.
    pub cwd: String,
}

/// In which context code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within<'a> {
    /// The context that a language has from the beginning.
    Language(&'a str),
    /// One that was made.
    Context(&'a Context),
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Execution {
    /// Values and everything else that was shown, in order.
    pub results: Vec<Shown>,
    /// What was printed.
    pub stdout: String,
    /// What was printed as an error.
    pub stderr: String,
    /// What the code has failed with.
    pub error: Option<CodeError>,
}

/// Something that was shown, in every form that it has.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Shown {
    /// Plain text.
    pub text: Option<String>,
    /// HTML.
    pub html: Option<String>,
    /// SVG.
    pub svg: Option<String>,
    /// PNG, base64.
    pub png: Option<String>,
    /// JSON.
    pub json: Option<Value>,
    /// Columns of a data frame, by name.
    pub data: Option<Map<String, Value>>,
    /// A chart's values.
    pub chart: Option<Value>,
    /// Whether it is the value of the last line.
    pub is_main_result: bool,
    /// Other forms, by their MIME types.
    pub extra: Map<String, Value>,
}

/// What code has failed with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CodeError {
    /// The name of its class.
    pub name: String,
    /// What it says.
    pub value: String,
    /// Where it comes from.
    pub traceback: String,
}

#[derive(Debug, Serialize)]
struct ExecuteBody<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ContextBody<'a> {
    language: &'a str,
}

/// A line of the answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Stdout {
        text: String,
    },
    Stderr {
        text: String,
    },
    Result(Box<Shown>),
    Error(CodeError),
    EndOfExecution,
    #[serde(other)]
    Other,
}

impl Interpreter {
    pub(crate) fn new(envd: Envd, traffic_token: Option<Secret>) -> Self {
        Self {
            envd,
            traffic_token,
        }
    }

    /// The daemon of the same sandbox.
    #[must_use]
    pub fn envd(&self) -> &Envd {
        &self.envd
    }

    /// Runs code to its end, however long that takes. Dropping the future stops the code.
    ///
    /// # Errors
    /// When it could not be run. Code that fails is no error here but an [`Execution`] with one.
    pub async fn run(&self, code: &str, within: Within<'_>) -> Result<Execution, ClientError> {
        let operation = "run code";
        let body = match within {
            Within::Language(language) => ExecuteBody {
                code,
                context_id: None,
                language: Some(language),
            },
            Within::Context(context) => ExecuteBody {
                code,
                context_id: Some(&context.id),
                language: None,
            },
        };
        let answer = self
            .send(operation, Method::POST, "/execute", &body)
            .await?;
        read(operation, answer.into_body()).await
    }

    /// Makes a context with a kernel of its own.
    ///
    /// # Errors
    /// When there is no such language, or no room for another.
    pub async fn create_context(&self, language: &str) -> Result<Context, ClientError> {
        let operation = "make a context";
        let body = ContextBody { language };
        let answer = self
            .send(operation, Method::POST, "/contexts", &body)
            .await?;
        parse(operation, answer).await
    }

    /// Removes a context with all it has.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn remove_context(&self, context: &Context) -> Result<(), ClientError> {
        let path = format!("/contexts/{}", segment(&context.id));
        self.send("remove a context", Method::DELETE, &path, &Value::Null)
            .await
            .map(drop)
    }

    async fn send(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ClientError::request(operation, error))?;
        let mut request = self
            .envd
            .request_to(PORT, method, path)
            .header(hyper::header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.traffic_token {
            request = request.header("E2B-Traffic-Access-Token", token.expose());
        }
        let request = request
            .body(full(body))
            .map_err(|error| ClientError::request(operation, error))?;
        let answer = self.envd.http().send(operation, request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => {
                let bytes = read_all(operation, answer.into_body()).await?;
                Err(refusal(operation, status, &bytes))
            }
        }
    }
}

async fn parse<T: DeserializeOwned>(
    operation: &str,
    answer: Response<Incoming>,
) -> Result<T, ClientError> {
    json(operation, &read_all(operation, answer.into_body()).await?)
}

/// Reads lines until the one that says that there are no more.
async fn read(operation: &str, mut body: Incoming) -> Result<Execution, ClientError> {
    let mut execution = Execution::default();
    let mut begun = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::broken(operation, error))?;
        let Some(bytes) = frame.data_ref() else {
            continue;
        };
        for line in whole_lines(&mut begun, bytes) {
            if execution.take(json(operation, &line)?) {
                return Ok(execution);
            }
        }
        if begun.len() > MAX_LINE_BYTES {
            let endless = std::io::Error::other("a line without an end");
            return Err(ClientError::broken(operation, endless));
        }
    }
    let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    Err(ClientError::broken(operation, cut))
}

/// Adds bytes to what has begun, and takes out the lines that are whole now.
fn whole_lines(begun: &mut Vec<u8>, bytes: &Bytes) -> Vec<Bytes> {
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        begun.extend_from_slice(bytes);
        return Vec::new();
    };
    let (whole, rest) = bytes.split_at(end);
    begun.extend_from_slice(whole);
    let lines = Bytes::from(std::mem::replace(begun, rest[1..].to_vec()));
    lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| lines.slice_ref(line))
        .collect()
}

impl Execution {
    /// Takes a line in. Says whether it was the last.
    fn take(&mut self, line: Line) -> bool {
        match line {
            Line::Stdout { text } => self.stdout += &text,
            Line::Stderr { text } => self.stderr += &text,
            Line::Result(shown) => self.results.push(*shown),
            Line::Error(error) => self.error = Some(error),
            Line::EndOfExecution => return true,
            Line::Other => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut begun = Vec::new();
        let mut push = |text: &'static str| -> Vec<String> {
            whole_lines(&mut begun, &Bytes::from_static(text.as_bytes()))
                .iter()
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect()
        };
        assert!(push("{\"a").is_empty());
        assert_eq!(push("\": 1}\n{}\n\n{\"b"), ["{\"a\": 1}", "{}"]);
        assert_eq!(push("\": 2}\n"), ["{\"b\": 2}"]);
    }

    #[test]
    fn what_lines_say() {
        let mut execution = Execution::default();
        let mut take = |text: &str| execution.take(serde_json::from_str(text).unwrap());
        assert!(!take(
            r#"{"type": "stdout", "text": "a", "timestamp": "t"}"#
        ));
        assert!(!take(
            r#"{"type": "number_of_executions", "execution_count": 1}"#
        ));
        assert!(!take(
            r#"{"type": "result", "text": "1", "is_main_result": true, "extra": {"x/y": 2}}"#
        ));
        assert!(!take(
            r#"{"type": "error", "name": "E", "value": "v", "traceback": "t"}"#
        ));
        assert!(take(r#"{"type": "end_of_execution"}"#));
        assert_eq!(execution.stdout, "a");
        assert_eq!(execution.results[0].extra["x/y"], 2);
        assert_eq!(execution.error.unwrap().name, "E");
    }
}
