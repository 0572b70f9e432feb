//! Upgraded connections (WebSocket and whatever else): bytes both ways until one side ends or the sandbox does.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::body::Closed;
use crate::guard::StreamGuard;
use crate::pool::OpenRequest;

const TUNNEL_BUFFER_BYTES: usize = 64 * 1024;

/// Everything an upgraded exchange holds on to.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) sandbox: OnUpgrade,
    /// Drives the upstream connection up to the point of upgrade.
    pub(crate) connection: AbortOnDropHandle<()>,
    pub(crate) closed: Closed,
    pub(crate) hard_stop: CancellationToken,
    pub(crate) open: OpenRequest,
    pub(crate) stream: StreamGuard,
}

impl Tunnel {
    /// Carries bytes; either half may end on its own. Dropping it closes both sockets.
    pub(crate) async fn run(self) {
        let Self {
            client,
            sandbox,
            connection,
            closed,
            hard_stop,
            open,
            stream,
        } = self;
        let carry = async {
            let (client, sandbox) =
                tokio::try_join!(client, sandbox).map_err(std::io::Error::other)?;
            tokio::io::copy_bidirectional_with_sizes(
                &mut TokioIo::new(client),
                &mut TokioIo::new(sandbox),
                TUNNEL_BUFFER_BYTES,
                TUNNEL_BUFFER_BYTES,
            )
            .await
        };
        tokio::select! {
            result = carry => if let Err(error) = result {
                tracing::debug!(%error, "tunnel broke");
            },
            () = closed => {}
            () = hard_stop.cancelled() => {}
        }
        drop((connection, open, stream));
    }
}
