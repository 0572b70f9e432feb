//! Files of volumes, read and written as streams of any length.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use soulbox_api_types::volume::VolumeEntryStat;
use soulbox_orchestrator::VolumeUpload;
use soulbox_types::VolumeId;

use crate::error::ApiError;
use crate::extract::Query;
use crate::state::{Api, Shared};
use crate::volumes::content::{ContentError, Opened, force, owned, path, wire};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// How long a client may send nothing.
const STALL: Duration = Duration::from_secs(60);
const FILE_MODE: u32 = 0o644;
/// What is taken and thrown away of a file that is refused, and for how long.
const DRAINED_BYTES: usize = 256 << 20;
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn read(
    State(api): State<Shared>,
    Opened(volume): Opened,
    query: Result<Query, ApiError>,
) -> Result<Response, ContentError> {
    let query = query?;
    let (size, file) = api.volumes.read(&volume, path(&query)?).await?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
    ];
    // A sandbox may write meanwhile: what was the file's size is what is sent, or the answer breaks off.
    let pieces = stream::try_unfold((Arc::new(file), size), async |(file, left)| {
        if left == 0 {
            return Ok(None);
        }
        let most = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let reader = Arc::clone(&file);
        let piece = tokio::task::spawn_blocking(move || -> io::Result<Bytes> {
            let mut piece = vec![0; most];
            let count = (&*reader).read(&mut piece)?;
            piece.truncate(count);
            Ok(piece.into())
        });
        let piece = piece.await.map_err(io::Error::other)??;
        if piece.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let left = left - u64::try_from(piece.len()).map_err(io::Error::other)?;
        Ok(Some((piece, (file, left))))
    });
    Ok((headers, Body::from_stream(Box::pin(pieces))).into_response())
}

/// The body goes to the volume as it comes; what is not whole leaves nothing.
pub(crate) async fn write(
    State(api): State<Shared>,
    Opened(volume): Opened,
    query: Result<Query, ApiError>,
    mut body: Body,
) -> Result<(StatusCode, Json<VolumeEntryStat>), ContentError> {
    let written = store(&api, &volume, query, &mut body).await;
    if written.is_err() {
        drain(&mut body).await;
    }
    Ok((StatusCode::CREATED, Json(written?)))
}

async fn store(
    api: &Api,
    volume: &VolumeId,
    query: Result<Query, ApiError>,
    body: &mut Body,
) -> Result<VolumeEntryStat, ContentError> {
    let query = query?;
    let owned = owned(&query, FILE_MODE)?;
    let begun = api.volumes.write(volume, path(&query)?, force(&query)?);
    let mut upload = begun.await?;
    receive(&mut upload, body).await?;
    Ok(wire(upload.finish(owned).await?))
}

/// Takes what is still coming, within reason: many clients read no answer before they have sent everything.
async fn drain(body: &mut Body) {
    let rest = async {
        let mut left = DRAINED_BYTES;
        while let (1.., Some(Ok(frame))) = (left, body.frame().await) {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    // What does not come to an end is cut off.
    let _ended = tokio::time::timeout(DRAIN_PATIENCE, rest).await;
}

async fn receive(upload: &mut VolumeUpload, body: &mut Body) -> Result<(), ContentError> {
    loop {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        match frame {
            Err(_elapsed) => {
                let message = "the upload has stalled";
                return Err(ApiError::with_status(StatusCode::REQUEST_TIMEOUT, message).into());
            }
            Ok(None) => return Ok(()),
            Ok(Some(Err(_))) => return Err(ApiError::invalid("the upload broke off").into()),
            // What is no data are trailers, which say nothing here.
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    upload.write(piece).await?;
                }
            }
        }
    }
}
