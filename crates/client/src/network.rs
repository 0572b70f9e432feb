//! How sandboxes are reached, and what they reach.

use hyper::Method;
use soulbox_api_types::contact::SandboxContacts;
use soulbox_api_types::network::SandboxNetworkUpdate;
use soulbox_api_types::url::{NewPortUrl, PortUrl};

use crate::api::{body, segment};
use crate::http::json;
use crate::{Api, ClientError};

/// Which contacts to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContactsQuery {
    /// Those after this place; the newest when absent.
    pub after: Option<i64>,
    /// Only those that were refused.
    pub refused_only: bool,
    /// How long the server waits for something to happen, up to 30.
    pub wait_seconds: Option<u32>,
}

impl ContactsQuery {
    fn path(&self, id: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("refused", if self.refused_only { "true" } else { "false" });
        if let Some(after) = self.after {
            query.append_pair("after", &after.to_string());
        }
        if let Some(wait) = self.wait_seconds {
            query.append_pair("wait", &wait.to_string());
        }
        let id = segment(id);
        format!("/sandboxes/{id}/network/contacts?{}", query.finish())
    }
}

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

    /// What a sandbox has said to the network, and what became of it.
    ///
    /// # Errors
    /// When there is no such sandbox.
    pub async fn contacts(
        &self,
        id: &str,
        query: &ContactsQuery,
    ) -> Result<SandboxContacts, ClientError> {
        let operation = format!("read what sandbox {id} says to the network");
        self.get(&operation, &query.path(id)).await
    }

    /// Replaces what a running sandbox may reach.
    ///
    /// # Errors
    /// When there is no such sandbox, it does not run, or the server refuses the policy.
    pub async fn set_network(
        &self,
        id: &str,
        policy: &SandboxNetworkUpdate,
    ) -> Result<(), ClientError> {
        let operation = format!("change the network of sandbox {id}");
        let path = format!("/sandboxes/{}/network", segment(id));
        let body = Some(body(&operation, policy)?);
        let answered = self.call(&operation, Method::PUT, &path, self.team(), body);
        answered.await.map(drop)
    }
}
