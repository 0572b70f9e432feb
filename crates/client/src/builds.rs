//! Builds of templates: asking for one, its files, its start, how far it is.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, Request, header};
use soulbox_api_types::build::{
    NewTemplateBuild, StartTemplateBuild, TemplateBuildInfo, TemplateBuildRequested,
    TemplateFileUpload,
};

use crate::api::{body, segment};
use crate::http::{json, read_all, refusal};
use crate::{Api, ClientError};

impl Api {
    /// Asks for a build, of a new template or of one that is there. It waits until it is started.
    ///
    /// # Errors
    /// When the name or the sizes are refused, or too many builds are in progress.
    pub async fn request_build(
        &self,
        wanted: &NewTemplateBuild,
    ) -> Result<TemplateBuildRequested, ClientError> {
        let name = wanted.name.as_deref().unwrap_or_default();
        let operation = format!("ask for a build of template {name}");
        let body = body(&operation, wanted)?;
        let path = "/v3/templates";
        let (_, _, bytes) = self
            .call(&operation, Method::POST, path, self.team(), Some(body))
            .await?;
        json(&operation, &bytes)
    }

    /// Where a build's files go, by their hash (64 hex digits), and whether the server has them already.
    ///
    /// # Errors
    /// When there is no such template, or the server refuses.
    pub async fn build_files(
        &self,
        template_id: &str,
        hash: &str,
    ) -> Result<TemplateFileUpload, ClientError> {
        let operation = format!("ask where files of template {template_id} go");
        let path = format!(
            "/templates/{}/files/{}",
            segment(template_id),
            segment(hash)
        );
        self.get(&operation, &path).await
    }

    /// Sends files to where [`build_files`](Self::build_files) said. The body gives exactly `length` bytes; it need not
    /// be in memory at once. No key goes along: the address is enough.
    ///
    /// # Errors
    /// When the server refuses them, or the connection or the body breaks before the end.
    pub async fn put_build_files<B>(
        &self,
        place: &TemplateFileUpload,
        length: u64,
        content: B,
    ) -> Result<(), ClientError>
    where
        B: http_body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        let operation = "send the files of a build";
        // The length said, nothing is sent in chunks, which places for files do not take.
        let mut request = Request::builder()
            .method(Method::PUT)
            .uri(&place.url)
            .header(header::CONTENT_LENGTH, length);
        for (name, value) in place.headers.iter().flatten() {
            request = request.header(name, value);
        }
        let request = request
            .body(content.boxed_unsync())
            .map_err(|error| ClientError::request(operation, error))?;
        // No deadline: size and line decide how long it takes.
        let (parts, body) = self.http().send(operation, request).await?.into_parts();
        let bytes = read_all(operation, body).await?;
        if parts.status.is_success() {
            Ok(())
        } else {
            Err(refusal(operation, parts.status, &bytes))
        }
    }

    /// Starts a build that waits. Builds of the same template in progress that share a tag with it are cancelled.
    ///
    /// # Errors
    /// When it does not wait, or what it is to do is refused.
    pub async fn start_build(
        &self,
        template_id: &str,
        build_id: &str,
        what: &StartTemplateBuild,
    ) -> Result<(), ClientError> {
        let operation = format!("start build {build_id}");
        let body = body(&operation, what)?;
        let path = format!("/v2{}", build_path(template_id, build_id));
        self.call(&operation, Method::POST, &path, self.team(), Some(body))
            .await
            .map(drop)
    }

    /// How far a build is, and its log from the entry with number `logs_offset` on, at most a hundred entries.
    ///
    /// # Errors
    /// When there is no such build, or the server refuses.
    pub async fn build_status(
        &self,
        template_id: &str,
        build_id: &str,
        logs_offset: usize,
    ) -> Result<TemplateBuildInfo, ClientError> {
        let operation = format!("look at build {build_id}");
        let path = format!(
            "{}/status?logsOffset={logs_offset}",
            build_path(template_id, build_id)
        );
        self.get(&operation, &path).await
    }
}

fn build_path(template_id: &str, build_id: &str) -> String {
    format!(
        "/templates/{}/builds/{}",
        segment(template_id),
        segment(build_id)
    )
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::endpoint::SandboxAddress;
    use crate::{Endpoint, Secret};

    /// Takes one request whose body ends in `end` and answers it; returns what came.
    async fn answer(listener: TcpListener, end: &str, answer: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut came = Vec::new();
        while !came.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut came).await.unwrap() > 0, "{came:?}");
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(came).unwrap().to_ascii_lowercase()
    }

    async fn put(status: &str) -> (String, Result<(), ClientError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Api::new(Endpoint {
            api_url: url.clone(),
            sandboxes: SandboxAddress::Url(url.clone()),
            api_key: Some(Secret::new("e2b_key")),
            admin_token: None,
            ca_file: None,
        })
        .unwrap();
        let place = TemplateFileUpload {
            present: false,
            url: format!("{url}/place?signature=1"),
            headers: Some([("x-more".to_owned(), "1".to_owned())].into()),
        };
        // Of a body that does not say how long it is.
        let body = Full::new(Bytes::from_static(b"files"))
            .map_err(|never| match never {})
            .map_frame(|frame| frame)
            .boxed_unsync();
        assert_eq!(http_body::Body::size_hint(&body).exact(), None);
        let said = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
        let (came, done) = tokio::join!(
            answer(listener, "files", &said),
            api.put_build_files(&place, 5, body)
        );
        (came, done)
    }

    #[tokio::test]
    async fn files_go_with_their_length_and_without_a_key() {
        let (came, done) = put("200 OK").await;
        done.unwrap();
        assert!(
            came.starts_with("put /place?signature=1 http/1.1\r\n"),
            "{came}"
        );
        assert!(came.contains("\r\ncontent-length: 5\r\n") && came.contains("\r\nx-more: 1\r\n"));
        for never in ["transfer-encoding", "x-api-key", "content-type"] {
            assert!(!came.contains(never), "{came}");
        }
        let (_, done) = put("403 Forbidden").await;
        assert!(matches!(done, Err(ClientError::Refused { .. })), "{done:?}");
    }

    #[test]
    fn ids_are_segments() {
        assert_eq!(build_path("a/b", "c?d"), "/templates/a%2Fb/builds/c%3Fd");
    }
}
