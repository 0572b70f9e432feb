//! What a build asks for: find an image, fetch its layers.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};

use crate::aws;
use crate::blobs::{Blob, Blobs};
use crate::document::{self, Descriptor, Digest, Document, Image};
use crate::error::PullError;
use crate::network::Network;
use crate::reference::Reference;
use crate::session::{Login, Session};

/// More compressed bytes than this are not fetched for one image.
const MAX_IMAGE_BYTES: u64 = 20 << 30;
const TRIES: usize = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The name under which Google takes an account file as a password.
const GOOGLE_USER: &str = "_json_key";

/// What a registry asks for.
#[derive(Clone)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// Name.
        username: String,
        /// Secret.
        password: String,
    },
    /// Amazon's.
    Aws {
        /// Key id.
        access_key_id: String,
        /// Secret.
        secret_access_key: String,
        /// Region.
        region: String,
    },
    /// Google's.
    Gcp {
        /// The account file's text.
        service_account_json: String,
    },
}

// Written by hand so that no log ever shows a credential.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Aws { .. } => "Aws",
            Self::Gcp { .. } => "Gcp",
        })
    }
}

/// All registries, as seen from this server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registries {
    network: Arc<Network>,
    /// Where Amazon's tokens come from, with `{region}` in it.
    ecr_endpoint: String,
    blobs: Blobs,
}

/// An image that was found.
pub struct Found<'a> {
    /// What it is.
    pub image: Image,
    session: Session<'a>,
    blobs: &'a Blobs,
}

impl std::fmt::Debug for Found<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found")
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

impl Registries {
    /// `ecr_endpoint` is where Amazon's tokens come from; `{region}` in it stands for the region.
    #[must_use]
    pub fn new(network: Network, ecr_endpoint: String, blobs: Blobs) -> Self {
        Self {
            network: Arc::new(network),
            ecr_endpoint,
            blobs,
        }
    }

    /// Finds what an image's name stands for now, for this machine's architecture.
    ///
    /// # Errors
    /// See [`PullError`]. What may pass is tried again for a while before.
    pub async fn find(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Found<'_>, PullError> {
        if let Some(mirror) = self.network.mirror_of(reference.registry()) {
            let session = Session::new(&self.network, mirror.clone(), reference.repository(), None);
            match image(&session, reference).await {
                Ok(image) => return Ok(self.found(image, session)),
                Err(error) => tracing::warn!(
                    image = %reference,
                    error = &error as &dyn std::error::Error,
                    "the mirror of a registry fails; the registry itself is asked"
                ),
            }
        }
        let login = match credentials {
            Some(credentials) => Some(self.login(credentials).await?),
            None => None,
        };
        let base = self.network.url_of(reference.host())?;
        let session = Session::new(&self.network, base, reference.repository(), login);
        let image = patiently(|| image(&session, reference)).await?;
        Ok(self.found(image, session))
    }

    fn found<'a>(&'a self, image: Image, session: Session<'a>) -> Found<'a> {
        Found {
            image,
            session,
            blobs: &self.blobs,
        }
    }

    async fn login(&self, credentials: &Credentials) -> Result<Login, PullError> {
        match credentials {
            Credentials::Basic { username, password } => Ok(Login {
                username: username.clone(),
                password: password.clone(),
            }),
            Credentials::Gcp {
                service_account_json,
            } => Ok(Login {
                username: GOOGLE_USER.to_owned(),
                password: service_account_json.clone(),
            }),
            Credentials::Aws {
                access_key_id,
                secret_access_key,
                region,
            } => {
                let key = aws::Key {
                    id: access_key_id,
                    secret: secret_access_key,
                    region,
                };
                patiently(|| aws::login(&self.network, &self.ecr_endpoint, &key)).await
            }
        }
    }
}

impl Found<'_> {
    /// Fetches one layer, if it is not there. What has come of it before is not fetched again.
    ///
    /// # Errors
    /// See [`PullError`]. What may pass is tried again for a while before.
    pub async fn layer(&self, layer: &Descriptor) -> Result<Blob, PullError> {
        patiently(|| self.blobs.fetch(&self.session, layer)).await
    }
}

/// Tries what may pass a few times more, and waits as long as the registry says.
async fn patiently<T, F: Future<Output = Result<T, PullError>>>(
    work: impl FnMut() -> F,
) -> Result<T, PullError> {
    let waits = ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_max_times(TRIES - 1)
        .with_jitter();
    work.retry(waits)
        .when(PullError::is_passing)
        .adjust(|error, wait| Some(error.after().unwrap_or(wait?)))
        .notify(|error, wait| tracing::info!(%error, ?wait, "a registry is asked again"))
        .await
}

/// Reads what describes the image, and compares each document with its digest.
async fn image(session: &Session<'_>, reference: &Reference) -> Result<Image, PullError> {
    let mut bytes = session.manifest(&reference.version()).await?;
    let mut digest = Digest::of(&bytes);
    if reference.digest().is_some_and(|wanted| *wanted != digest) {
        return Err(PullError::WrongDigest("the manifest".to_owned()));
    }
    let mut found = Document::parse(&bytes)?;
    if let Document::Index(index) = &found {
        let chosen = document::choose(index, document::architecture())?;
        bytes = session.manifest(&chosen.digest.to_string()).await?;
        digest = Digest::of(&bytes);
        if digest != chosen.digest {
            return Err(PullError::WrongDigest("the manifest".to_owned()));
        }
        found = Document::parse(&bytes)?;
    }
    let Document::Manifest(manifest) = found else {
        let text = "the image is an index in an index".to_owned();
        return Err(document::BadDocument(text).into());
    };
    let size: u64 = manifest
        .layers
        .iter()
        .map(|layer| layer.size)
        .fold(0, u64::saturating_add);
    if size > MAX_IMAGE_BYTES {
        return Err(PullError::TooLarge {
            limit_bytes: MAX_IMAGE_BYTES,
        });
    }
    let config = session
        .document(&manifest.config.digest.to_string())
        .await?;
    if Digest::of(&config) != manifest.config.digest {
        return Err(PullError::WrongDigest(
            "the image's configuration".to_owned(),
        ));
    }
    let architecture = document::architecture();
    Ok(Image::of(digest, manifest, &config, architecture)?)
}
