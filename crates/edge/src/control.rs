//! The control plane as the edge sees it: a service behind one dynamic call, so that `Edge` needs no type parameters.

use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tower::{Service, ServiceExt as _};

use crate::body::BoxError;
use crate::lent::ClientBody;

/// The answer of the control plane, in time.
pub(crate) type ControlFuture = Pin<
    Box<dyn Future<Output = Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>> + Send>,
>;

pub(crate) trait Control: Send + Sync {
    fn call(&self, request: Request<ClientBody>) -> ControlFuture;
}

pub(crate) struct Adapter<S>(pub(crate) S);

impl<S, B> Control for Adapter<S>
where
    S: Service<Request<ClientBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, request: Request<ClientBody>) -> ControlFuture {
        let service = self.0.clone();
        Box::pin(async move {
            let response = service.oneshot(request).await.map_err(Into::into)?;
            Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        })
    }
}
