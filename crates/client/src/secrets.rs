//! Secrets: made, changed, listed, removed. What they hold goes one way.

use hyper::Method;
use soulbox_api_types::secret::{NewSecret, Secret, SecretUpdate};

use crate::api::{body, segment};
use crate::http::json;
use crate::{Api, ClientError};

impl Api {
    /// Makes a secret.
    ///
    /// # Errors
    /// When the name is refused or taken.
    pub async fn create_secret(&self, new: &NewSecret) -> Result<Secret, ClientError> {
        let operation = format!("make secret {}", new.name);
        let body = Some(body(&operation, new)?);
        let made = self.call(&operation, Method::POST, "/secrets", self.team(), body);
        json(&operation, &made.await?.2)
    }

    /// Gives a secret another value.
    ///
    /// # Errors
    /// When there is none.
    pub async fn update_secret(
        &self,
        secret: &str,
        update: &SecretUpdate,
    ) -> Result<Secret, ClientError> {
        let operation = format!("change secret {secret}");
        let body = Some(body(&operation, update)?);
        let path = format!("/secrets/{}", segment(secret));
        let changed = self.call(&operation, Method::POST, &path, self.team(), body);
        json(&operation, &changed.await?.2)
    }

    /// A secret by its id or its name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn secret(&self, secret: &str) -> Result<Secret, ClientError> {
        let path = format!("/secrets/{}", segment(secret));
        self.get(&format!("look at secret {secret}"), &path).await
    }

    /// The team's secrets, oldest first.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn secrets(&self) -> Result<Vec<Secret>, ClientError> {
        let operation = "list secrets";
        let mut all: Vec<Secret> = Vec::new();
        let mut path = "/secrets".to_owned();
        loop {
            let mut page = self
                .page(operation, &path, |page: Vec<Secret>| page)
                .await?;
            all.append(&mut page.items);
            match page.next_token {
                Some(token) => path = format!("/secrets?nextToken={}", segment(&token)),
                None => return Ok(all),
            }
        }
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove_secret(&self, secret: &str) -> Result<(), ClientError> {
        let operation = format!("remove secret {secret}");
        let path = format!("/secrets/{}", segment(secret));
        self.call(&operation, Method::DELETE, &path, self.team(), None)
            .await
            .map(drop)
    }
}
