//! How sandboxes are reached, and what they reach.

use hyper::Method;
use soulbox_api_types::url::{NewPortUrl, PortUrl};

use crate::api::{body, segment};
use crate::http::json;
use crate::{Api, ClientError};

impl Api {
    /// An address that opens a port of a sandbox.
    ///
    /// # Errors
    /// When there is no such sandbox, or the server refuses the port or the time.
    pub async fn port_url(&self, id: &str, wanted: &NewPortUrl) -> Result<PortUrl, ClientError> {
        let operation = format!("make an address of port {} of sandbox {id}", wanted.port);
        let path = format!("/sandboxes/{}/urls", segment(id));
        let body = Some(body(&operation, wanted)?);
        let answered = self.call(&operation, Method::POST, &path, self.team(), body);
        let (_, _, bytes) = answered.await?;
        json(&operation, &bytes)
    }
}
