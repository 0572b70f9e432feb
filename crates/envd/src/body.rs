//! Request bodies that are read whole.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::reply::Refusal;

/// Everything, up to a limit.
pub(crate) async fn collect(body: Incoming, max_bytes: usize) -> Result<Bytes, Refusal> {
    match Limited::new(body, max_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body is larger than {max_bytes} bytes"),
        )),
        Err(error) => Err(Refusal::bad_request(format!(
            "error reading request body: {error}"
        ))),
    }
}
