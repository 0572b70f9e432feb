//! `POST /files/compose`: several files become one, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::fchown;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use soulbox_envd_proto::ComposeRequest;

use super::query::{resolve, user};
use super::target::{writing, written};
use crate::app::App;
use crate::body::collect;
use crate::directories;
use crate::path::{clean, parent};
use crate::random;
use crate::reply::{Refusal, Reply, json};
use crate::user::User;

const BODY_MAX_BYTES: usize = 4 * 1024 * 1024;

pub(crate) async fn compose(app: &App, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let body = collect(request.into_body(), BODY_MAX_BYTES).await?;
    let asked: ComposeRequest = serde_json::from_slice(&body)
        .map_err(|e| Refusal::bad_request(format!("invalid request body: {e}")))?;
    if asked.source_paths.is_empty() {
        return Err(Refusal::bad_request("source_paths must not be empty"));
    }
    if asked.destination.is_empty() {
        return Err(Refusal::bad_request("destination is required"));
    }
    let user = user(app, asked.username.as_deref())?;
    let destination = resolve(app, &user, &asked.destination)?;
    let sources: Vec<String> = asked
        .source_paths
        .iter()
        .map(|path| resolve(app, &user, path))
        .collect::<Result<_, _>>()?;
    if sources
        .iter()
        .any(|source| clean(source) == clean(&destination))
    {
        return Err(Refusal::bad_request(
            "a source path must not be the destination",
        ));
    }
    let to = destination.clone();
    // Copying may take long; it must not hold up everybody else.
    tokio::task::spawn_blocking(move || concatenate(&sources, &to, &user))
        .await
        .map_err(|e| Refusal::internal(format!("composing failed: {e}")))??;
    Ok(json(&written(
        destination,
        std::collections::BTreeMap::new(),
    )))
}

fn concatenate(sources: &[String], destination: &str, user: &User) -> Result<(), Refusal> {
    let opened: Vec<File> = sources
        .iter()
        .map(|path| open_source(path))
        .collect::<Result<_, _>>()?;
    directories::ensure(parent(destination), user)
        .map_err(|e| Refusal::internal(format!("error ensuring directories: {e}")))?;
    let temporary = format!(
        "{destination}.e2b-compose.{}.tmp",
        random::lower_alphanumeric(32)
    );
    let made = fill(&temporary, opened, user)
        .and_then(|()| fs::rename(&temporary, destination).map_err(|e| writing(&e)));
    if made.is_err() {
        // It may not exist; the first error is the one that counts.
        drop(fs::remove_file(&temporary));
        return made;
    }
    for source in sources {
        // The result is there; a source that stays is no reason to call it a failure.
        drop(fs::remove_file(source));
    }
    Ok(())
}

fn open_source(path: &str) -> Result<File, Refusal> {
    let missing = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("source file not found: {path}"),
        )
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => {
            return Err(Refusal::bad_request(format!(
                "source is not a regular file: {path}"
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => {
            return Err(Refusal::internal(format!(
                "error checking source file: {error}"
            )));
        }
    }
    File::open(path)
        .map_err(|error| Refusal::internal(format!("error opening source file: {error}")))
}

fn fill(temporary: &str, sources: Vec<File>, user: &User) -> Result<(), Refusal> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(temporary)
        .map_err(|e| writing(&e))?;
    for mut source in sources {
        io::copy(&mut source, &mut file).map_err(|e| writing(&e))?;
    }
    fchown(&file, Some(user.uid), Some(user.gid)).map_err(|e| writing(&e))
}
