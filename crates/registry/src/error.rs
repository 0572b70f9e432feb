//! Why an image was not fetched.

use std::time::Duration;

use soulbox_client::TrustError;

use crate::document::BadDocument;
use crate::reference::BadReference;

/// Why an image was not fetched. The texts of [`PullError::told`] are the wire's.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Its name is none.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// The registry has no such image or tag.
    #[error("no such image or tag")]
    ImageMissing,
    /// The registry has no such repository.
    #[error("no such repository")]
    RepositoryMissing,
    /// The registry wants to know who asks.
    #[error("authentication required")]
    Unauthorized,
    /// The registry knows who asks, and refuses.
    #[error("not permitted")]
    Forbidden,
    /// Any other answer.
    #[error("status {code}")]
    Status {
        /// HTTP's.
        code: u16,
        /// When to ask again, as the registry says.
        after: Option<Duration>,
    },
    /// There was no whole answer.
    #[error("{0}")]
    Unreachable(String),
    /// The registry is where builds may not connect to.
    #[error("{0}")]
    Closed(String),
    /// What was answered makes no image.
    #[error(transparent)]
    Document(#[from] BadDocument),
    /// What came is not what was promised.
    #[error("{0} does not have the content that its digest promises")]
    WrongDigest(String),
    /// More than is taken.
    #[error("the image has more than {limit_bytes} bytes")]
    TooLarge {
        /// What is taken, compressed.
        limit_bytes: u64,
    },
    /// The disk of the server is full.
    #[error("no space left for the image's layers")]
    Full,
    /// The disk of the server fails.
    #[error("cannot store the image's layers")]
    Io(#[source] std::io::Error),
    /// The certificates of this host cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl PullError {
    /// For the owner of the build that named the image.
    #[must_use]
    pub fn told(&self, image: &str) -> String {
        match self {
            Self::ImageMissing => {
                format!(
                    "image '{image}' not found: the image or tag does not exist in the registry"
                )
            }
            Self::RepositoryMissing => {
                format!("repository '{image}' not found: verify the image name is correct")
            }
            Self::Unauthorized => format!(
                "access denied to '{image}': authentication required or insufficient permissions"
            ),
            Self::Forbidden => {
                format!("access denied to '{image}': you don't have permission to pull this image")
            }
            Self::Status { code, .. } => {
                format!("failed to pull image '{image}': registry returned status code {code}")
            }
            Self::Unreachable(why) => format!(
                "failed to pull image '{image}': unable to retrieve image from registry: {why}\n\
                 FIX: check the name, or try again; layers that arrived are kept for a while"
            ),
            Self::Reference(error) => error.to_string(),
            Self::Document(error) => error.to_string(),
            Self::Closed(why) => format!("failed to pull image '{image}': {why}"),
            Self::WrongDigest(what) => format!(
                "failed to pull image '{image}': {what} does not have the content that its digest promises\n\
                 FIX: push the image again"
            ),
            Self::TooLarge { limit_bytes } => format!(
                "failed to pull image '{image}': it has more than {} MiB\nFIX: start from a smaller image",
                limit_bytes >> 20
            ),
            Self::Full => format!(
                "failed to pull image '{image}': no space left on the server\n\
                 FIX: free space on the file system of the data directory"
            ),
            Self::Io(error) => {
                format!("failed to pull image '{image}': cannot store its layers: {error}")
            }
            Self::Trust(error) => format!("failed to pull image '{image}': {error}"),
        }
    }

    /// Whether it may work when it is tried again soon.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Status { code, .. } => *code == 429 || *code >= 500,
            Self::Unreachable(_) => true,
            _ => false,
        }
    }

    /// How long to wait before that, where the registry says it.
    pub(crate) fn after(&self) -> Option<Duration> {
        match self {
            Self::Status { after, .. } => *after,
            _ => None,
        }
    }
}

impl From<std::io::Error> for PullError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}
