//! Volumes: made, listed, removed, and what is in them.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, Request, header};
use soulbox_api_types::volume::{NewVolume, Volume, VolumeAndToken, VolumeEntryStat};

use crate::api::{body, segment};
use crate::http::{full, json, read_all, refusal};
use crate::versions::Export;
use crate::{Api, ClientError, Secret};

impl Api {
    /// Makes a volume.
    ///
    /// # Errors
    /// When the name is refused or taken.
    pub async fn create_volume(&self, name: &str) -> Result<VolumeAndToken, ClientError> {
        let operation = format!("make volume {name}");
        let new = NewVolume {
            name: name.to_owned(),
        };
        let body = body(&operation, &new)?;
        let (_, _, bytes) = self
            .call(
                &operation,
                Method::POST,
                "/volumes",
                self.team(),
                Some(body),
            )
            .await?;
        json(&operation, &bytes)
    }

    /// The team's volumes, by name.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn volumes(&self) -> Result<Vec<Volume>, ClientError> {
        self.get("list volumes", "/volumes").await
    }

    /// A volume by its id, with a token for its content.
    ///
    /// # Errors
    /// When there is none.
    pub async fn volume(&self, id: &str) -> Result<VolumeAndToken, ClientError> {
        let path = format!("/volumes/{}", segment(id));
        self.get(&format!("look at volume {id}"), &path).await
    }

    /// Removes a volume by its id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove_volume(&self, id: &str) -> Result<(), ClientError> {
        let operation = format!("remove volume {id}");
        let path = format!("/volumes/{}", segment(id));
        self.call(&operation, Method::DELETE, &path, self.team(), None)
            .await
            .map(drop)
    }

    /// What is in a directory of a volume.
    ///
    /// # Errors
    /// When there is no such directory.
    pub async fn list_volume(
        &self,
        volume: &VolumeAndToken,
        path: &str,
    ) -> Result<Vec<VolumeEntryStat>, ClientError> {
        let operation = format!("list {path} in volume {}", volume.name);
        let address = content("dir", volume, path, &[]);
        let token = Some(bearer(volume));
        let identity = ("Authorization", &token);
        let (_, _, bytes) = self
            .call(&operation, Method::GET, &address, identity, None)
            .await?;
        json(&operation, &bytes)
    }

    /// Opens a file of a volume.
    ///
    /// # Errors
    /// When there is no such file.
    pub async fn read_volume(
        &self,
        volume: &VolumeAndToken,
        path: &str,
    ) -> Result<Export, ClientError> {
        let operation = format!("read {path} in volume {}", volume.name);
        let uri = self.at(&content("file", volume, path, &[]));
        let request = Request::get(uri)
            .header(header::AUTHORIZATION, bearer(volume).expose())
            .body(full(Bytes::new()))
            .map_err(|error| ClientError::request(&operation, error))?;
        let answer = self.http().send(&operation, request).await?;
        if answer.status().is_success() {
            return Export::of(operation, answer);
        }
        let (parts, body) = answer.into_parts();
        let bytes = read_all(&operation, body).await?;
        Err(refusal(&operation, parts.status, &bytes))
    }

    /// Writes a file of a volume, owned by the usual user of templates, in the place of another if there is one.
    ///
    /// # Errors
    /// When its directory is not there, the volume is full, or connection or content break before the end.
    pub async fn write_volume<B>(
        &self,
        volume: &VolumeAndToken,
        path: &str,
        file: B,
    ) -> Result<VolumeEntryStat, ClientError>
    where
        B: http_body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        let operation = format!("write {path} in volume {}", volume.name);
        let owned = [("uid", "1000"), ("gid", "1000"), ("force", "true")];
        let uri = self.at(&content("file", volume, path, &owned));
        let request = Request::put(uri)
            .header(header::AUTHORIZATION, bearer(volume).expose())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(file.boxed_unsync())
            .map_err(|error| ClientError::request(&operation, error))?;
        let (parts, body) = self.http().send(&operation, request).await?.into_parts();
        let bytes = read_all(&operation, body).await?;
        if parts.status.is_success() {
            json(&operation, &bytes)
        } else {
            Err(refusal(&operation, parts.status, &bytes))
        }
    }

    fn at(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.endpoint().api_url)
    }
}

fn bearer(volume: &VolumeAndToken) -> Secret {
    Secret::new(format!("Bearer {}", volume.token))
}

fn content(kind: &str, volume: &VolumeAndToken, path: &str, more: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("path", path).extend_pairs(more);
    format!(
        "/volumecontent/{}/{kind}?{}",
        segment(&volume.volume_id),
        query.finish()
    )
}
