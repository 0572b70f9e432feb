//! `filesystem.Filesystem` on the wire: paths, codes and messages.
#![expect(
    refining_impl_trait_internal,
    reason = "the generated trait asks for `impl Encodable`; naming the message is clearer"
)]

use std::fs;
use std::io;
use std::sync::Arc;

use connectrpc::{
    ConnectError, ErrorCode, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use soulbox_envd_proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, EntryInfo, Filesystem as Rpc,
    GetWatcherEventsRequest, GetWatcherEventsResponse, ListDirRequest, ListDirResponse,
    MakeDirRequest, MakeDirResponse, MoveRequest, MoveResponse, RemoveRequest, RemoveResponse,
    RemoveWatcherRequest, RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest,
    WatchDirResponse,
};

use super::entry::entry;
use super::list::{ListError, list};
use super::watch::{self, Wanted};
use crate::app::App;
use crate::user::{Names, User};
use crate::{call, directories, path};

/// The service.
#[derive(Debug)]
pub(crate) struct FilesystemService(Arc<App>);

impl FilesystemService {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self(app)
    }

    fn path(&self, user: &User, given: &str) -> Result<String, ConnectError> {
        path::resolve(
            given,
            &user.home,
            self.0.settings.default_workdir().as_deref(),
        )
        .map_err(|e| ConnectError::invalid_argument(e.to_string()))
    }
}

fn describe(path: &str) -> Result<EntryInfo, ConnectError> {
    entry(path, &Names::load()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            ConnectError::not_found(format!("file not found: {error}: {path}"))
        }
        _ => ConnectError::internal(format!("error getting file info: {error}: {path}")),
    })
}

/// Work on the file system that may take long, off the thread that serves everybody.
async fn slowly<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| ConnectError::internal(format!("file work failed: {e}")))
}

fn remove(path: &str) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        // Below a file there is nothing to remove either.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Rpc for FilesystemService {
    async fn stat(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<StatResponse> {
        let user = call::user(&self.0, &ctx)?;
        let path = self.path(&user, &request.to_owned_message().path)?;
        Response::ok(StatResponse {
            entry: describe(&path)?.into(),
            ..StatResponse::default()
        })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let user = call::user(&self.0, &ctx)?;
        let path = self.path(&user, &request.to_owned_message().path)?;
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(ConnectError::already_exists(format!(
                    "directory already exists: {path}"
                )));
            }
            Ok(_) => {
                return Err(ConnectError::invalid_argument(format!(
                    "path already exists but it is not a directory: {path}"
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => {
                return Err(ConnectError::internal(format!(
                    "error getting file info: {error}: {path}"
                )));
            }
        }
        directories::ensure(&path, &user).map_err(|e| ConnectError::internal(e.to_string()))?;
        // A write into the new directory may follow at once; recursive watches must already see it.
        self.0.watchers.catch_up();
        Response::ok(MakeDirResponse {
            entry: describe(&path)?.into(),
            ..MakeDirResponse::default()
        })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let user = call::user(&self.0, &ctx)?;
        let request = request.to_owned_message();
        let (source, destination) = (
            self.path(&user, &request.source)?,
            self.path(&user, &request.destination)?,
        );
        directories::ensure(path::parent(&destination), &user)
            .map_err(|e| ConnectError::internal(e.to_string()))?;
        fs::rename(&source, &destination).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ConnectError::not_found(format!("source file not found: {error}: {source}"))
            }
            _ => {
                ConnectError::internal(format!("error renaming {source} to {destination}: {error}"))
            }
        })?;
        self.0.watchers.catch_up();
        Response::ok(MoveResponse {
            entry: describe(&destination)?.into(),
            ..MoveResponse::default()
        })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let user = call::user(&self.0, &ctx)?;
        let request = request.to_owned_message();
        let path = self.path(&user, &request.path)?;
        let depth = request.depth;
        // One level is quick, and a thread would cost more than it.
        let listed = if depth <= 1 {
            list(&path, depth)
        } else {
            slowly(move || list(&path, depth)).await?
        };
        let entries = listed.map_err(|error| {
            let code = match &error {
                ListError::NotFound(_) => ErrorCode::NotFound,
                ListError::NotDirectory(_) => ErrorCode::InvalidArgument,
                ListError::Loop(_) => ErrorCode::FailedPrecondition,
                ListError::TooMany(_) => ErrorCode::ResourceExhausted,
                ListError::Read(_) => ErrorCode::Internal,
            };
            ConnectError::new(code, error.to_string())
        })?;
        Response::ok(ListDirResponse {
            entries,
            ..ListDirResponse::default()
        })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let user = call::user(&self.0, &ctx)?;
        let path = self.path(&user, &request.to_owned_message().path)?;
        let failed =
            |e: io::Error| ConnectError::internal(format!("error removing file or directory: {e}"));
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            slowly(move || remove(&path)).await?.map_err(failed)?;
        } else {
            remove(&path).map_err(failed)?;
        }
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let WatchDirRequest {
            path,
            recursive,
            include_entry,
            allow_network_mounts,
            ..
        } = request.to_owned_message();
        let path = self.path(&call::user(&self.0, &ctx)?, &path)?;
        let wanted = Wanted {
            path,
            recursive,
            include_entry,
            allow_network_mounts,
        };
        let watch = self.0.watchers.start(&wanted)?;
        Ok(call::streaming(watch::stream(watch, call::keepalive(&ctx))))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let CreateWatcherRequest {
            path,
            recursive,
            include_entry,
            allow_network_mounts,
            ..
        } = request.to_owned_message();
        let path = self.path(&call::user(&self.0, &ctx)?, &path)?;
        let wanted = Wanted {
            path,
            recursive,
            include_entry,
            allow_network_mounts,
        };
        let watcher_id = self.0.watchers.create(&wanted)?;
        Response::ok(CreateWatcherResponse {
            watcher_id,
            ..CreateWatcherResponse::default()
        })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let events = self
            .0
            .watchers
            .poll(&request.to_owned_message().watcher_id)?;
        Response::ok(GetWatcherEventsResponse {
            events,
            ..GetWatcherEventsResponse::default()
        })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        self.0
            .watchers
            .remove(&request.to_owned_message().watcher_id)?;
        Response::ok(RemoveWatcherResponse::default())
    }
}
