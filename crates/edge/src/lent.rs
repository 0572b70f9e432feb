//! The body of a request, lent to whoever answers it: what is left unread comes back and is settled here.
//!
//! What must stay true: an HTTP/1.1 connection that ends after an answer was announced in the head of that answer
//! (RFC 9112 §9.6). hyper ends a connection whose request was not read to its end, and says nothing; a client that
//! keeps its connections then sends the next request into that end, and may not send a POST twice.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// As much of a body that nobody wants is read, so that its connection can serve on.
const MOST_BYTES: usize = 1024 * 1024;
/// As long the answer waits for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Body of a client's request.
#[derive(Debug)]
pub struct ClientBody {
    /// Empty only while it is dropped.
    body: Option<Incoming>,
    /// The client sends it. False until somebody reads it, when the client wants to be asked for it first (`Expect`).
    awaited: bool,
    owner: Option<oneshot::Sender<Unread>>,
}

/// A body that came back.
#[derive(Debug)]
struct Unread {
    body: Incoming,
    awaited: bool,
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if let (Some(body), Some(owner)) = (self.body.take(), self.owner.take()) {
            // Nobody waits for it when the client has left.
            let _nobody = owner.send(Unread {
                body,
                awaited: self.awaited,
            });
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.awaited = true;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// What may come back of a body.
#[derive(Debug)]
pub(crate) struct Rest {
    back: Option<oneshot::Receiver<Unread>>,
}

/// Takes the body of a request in, to be lent on. Only HTTP/1 needs it back: in HTTP/2 streams end alone.
pub(crate) fn lend(request: Request<Incoming>) -> (Request<ClientBody>, Rest) {
    let awaited = !request.headers().contains_key(EXPECT);
    let matters = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
    let (owner, back) = matters.then(oneshot::channel).unzip();
    let request = request.map(|body| ClientBody {
        body: Some(body),
        awaited,
        owner,
    });
    (request, Rest { back })
}

impl Rest {
    /// Reads what was left of the body, or says in the head of the answer that the connection ends with it.
    pub(crate) async fn settle(self, answer: &mut HeaderMap) {
        let Some(mut unread) = self.back.and_then(|mut back| back.try_recv().ok()) else {
            return;
        };
        if !unread.awaited || !read_out(&mut unread.body).await {
            answer.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// True when the body came to its end within the limits.
async fn read_out(body: &mut Incoming) -> bool {
    let reading = async {
        let mut read = 0;
        while read <= MOST_BYTES {
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        false
    };
    timeout(PATIENCE, reading).await.unwrap_or(false)
}
