//! `POST /files`.

use std::collections::{BTreeMap, HashSet};
use std::io;

use http::Request;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use hyper::body::Incoming;
use multer::Multipart;
use soulbox_envd_proto::FileWritten;

use super::metadata;
use super::multipart::file_name;
use super::query::{Query, resolve};
use super::signature::Operation;
use super::source::{Packing, chunks, drain};
use super::target::{Target, unreadable};
use crate::app::App;
use crate::reply::{Refusal, Reply, json};
use crate::route::media_type;
use crate::user::User;

pub(crate) async fn upload(app: &App, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let (head, mut body) = request.into_parts();
    match receive(app, &head, &mut body).await {
        Ok(written) => Ok(json(&written)),
        Err(refusal) => {
            drain(&mut body).await;
            Err(refusal)
        }
    }
}

/// What every part of one request shares.
struct Upload<'a> {
    app: &'a App,
    user: User,
    path: Option<String>,
    metadata: BTreeMap<String, String>,
}

async fn receive(
    app: &App,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Vec<FileWritten>, Refusal> {
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    query.authorize(app, &head.headers, Operation::Write)?;
    let packing = Packing::of(&head.headers)?;
    let user = query.user(app)?;
    let metadata = metadata::wanted(&head.headers)?;
    let upload = Upload {
        app,
        user,
        path: query.path,
        metadata,
    };
    let kind = media_type(&head.headers);
    if kind == "application/octet-stream" {
        return Ok(vec![upload.raw(body, packing).await?]);
    }
    if kind.starts_with("multipart/") {
        let header = head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let boundary = boundary(header)
            .ok_or_else(|| Refusal::bad_request("error parsing multipart form: no boundary"))?;
        return upload
            .multipart(Multipart::new(chunks(body, packing), boundary))
            .await;
    }
    Err(Refusal::bad_request(format!(
        "unsupported content type: {kind}"
    )))
}

/// Any `multipart/*` is taken, where the parser alone would want `form-data`.
fn boundary(content_type: &str) -> Option<String> {
    let (_, parameters) = content_type.split_once(';')?;
    multer::parse_boundary(format!("multipart/form-data;{parameters}")).ok()
}

impl Upload<'_> {
    async fn raw(&self, body: &mut Incoming, packing: Packing) -> Result<FileWritten, Refusal> {
        let Some(path) = self.path.as_deref().filter(|path| !path.is_empty()) else {
            return Err(Refusal::bad_request(
                "path query parameter is required for raw body upload",
            ));
        };
        let path = resolve(self.app, &self.user, path)?;
        let mut target = Target::open(self.app, &self.user, path)?;
        target.fill(chunks(body, packing)).await?;
        target.finish(&self.metadata)
    }

    async fn multipart(&self, mut parts: Multipart<'_>) -> Result<Vec<FileWritten>, Refusal> {
        let mut written: Vec<FileWritten> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(mut part) = parts.next_field().await.map_err(broken)? {
            if part.name() != Some("file") {
                continue;
            }
            let path = match self.path.as_deref().filter(|path| !path.is_empty()) {
                Some(path) => resolve(self.app, &self.user, path)?,
                None => self.path_of(&part)?,
            };
            if !seen.insert(path.clone()) {
                return Err(duplicate(&path, &written));
            }
            let mut target = Target::open(self.app, &self.user, path)?;
            loop {
                match part.chunk().await {
                    Ok(Some(chunk)) => target.write(&chunk)?,
                    Ok(None) => break,
                    Err(error) => {
                        target.flush()?;
                        return Err(broken(error));
                    }
                }
            }
            target.flush()?;
            written.push(target.finish(&self.metadata)?);
        }
        Ok(written)
    }

    fn path_of(&self, part: &multer::Field<'_>) -> Result<String, Refusal> {
        let name = file_name(part.headers()).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| {
            Refusal::bad_request(
                "multipart part has no filename, and the path query parameter is missing",
            )
        })?;
        resolve(self.app, &self.user, &name)
    }
}

fn duplicate(path: &str, written: &[FileWritten]) -> Refusal {
    let others: Vec<&str> = written
        .iter()
        .map(|file| file.path.as_str())
        .filter(|other| *other != path)
        .collect();
    let mut message = format!(
        "you cannot upload multiple files to the same path '{path}' in one upload request, only the first specified \
         file was uploaded"
    );
    if !others.is_empty() {
        message.push_str(&format!(
            ", also the following files were uploaded: {}",
            others.join(", ")
        ));
    }
    Refusal::bad_request(message)
}

fn broken(error: multer::Error) -> Refusal {
    match error {
        multer::Error::StreamReadFailed(source) => match source.downcast::<io::Error>() {
            Ok(error) => unreadable(&error),
            Err(other) => Refusal::internal(format!("error reading request body: {other}")),
        },
        other => Refusal::bad_request(format!("error parsing multipart form: {other}")),
    }
}
