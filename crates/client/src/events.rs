//! What has happened to sandboxes, and webhooks.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Request};
use soulbox_api_types::event::{NewWebhook, SandboxEvent, Webhook, WebhookDelivery, WebhookUpdate};

use crate::api::{body, segment};
use crate::http::{full, json, read_all, refusal};
use crate::{Api, ClientError};

/// Entries of a page.
const PAGE: usize = 100;

impl Api {
    /// All that is known to have happened to a sandbox, oldest first.
    ///
    /// # Errors
    /// When the server refuses. Of an unknown sandbox there is nothing.
    pub async fn sandbox_events(&self, id: &str) -> Result<Vec<SandboxEvent>, ClientError> {
        let operation = format!("read the events of sandbox {id}");
        let mut all = Vec::new();
        loop {
            let path = format!(
                "/events/sandboxes/{}?orderAsc=true&limit={PAGE}&offset={}",
                segment(id),
                all.len()
            );
            let page: Vec<SandboxEvent> = self.get(&operation, &path).await?;
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// What has happened to a sandbox after the event `seen`, or from the beginning, and what happens.
    ///
    /// # Errors
    /// When there is no such sandbox.
    pub async fn follow_events(
        &self,
        id: &str,
        seen: Option<&str>,
    ) -> Result<EventStream, ClientError> {
        let operation = format!("follow the events of sandbox {id}");
        let uri = format!(
            "{}/events/sandboxes/{}?follow=true",
            self.endpoint().api_url,
            segment(id)
        );
        let mut request = Request::get(uri);
        if let (header, Some(key)) = self.team() {
            request = request.header(header, key.expose());
        }
        if let Some(seen) = seen {
            request = request.header("Last-Event-ID", seen);
        }
        let request = request
            .body(full(Bytes::new()))
            .map_err(|error| ClientError::request(&operation, error))?;
        let answer = self.http().send(&operation, request).await?;
        let (parts, body) = answer.into_parts();
        if parts.status.is_success() {
            return Ok(EventStream {
                operation,
                body,
                begun: Vec::new(),
            });
        }
        let bytes = read_all(&operation, body).await?;
        Err(refusal(&operation, parts.status, &bytes))
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_webhook(&self, new: &NewWebhook) -> Result<Webhook, ClientError> {
        let operation = "make a webhook";
        let body = Some(body(operation, new)?);
        let made = self.call(
            operation,
            Method::POST,
            "/events/webhooks",
            self.team(),
            body,
        );
        json(operation, &made.await?.2)
    }

    /// The team's webhooks, oldest first.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ClientError> {
        self.get("list webhooks", "/events/webhooks").await
    }

    /// Changes a webhook.
    ///
    /// # Errors
    /// When there is none, or the server refuses.
    pub async fn update_webhook(
        &self,
        id: &str,
        change: &WebhookUpdate,
    ) -> Result<Webhook, ClientError> {
        let operation = format!("change webhook {id}");
        let body = Some(body(&operation, change)?);
        let path = format!("/events/webhooks/{}", segment(id));
        let changed = self.call(&operation, Method::PATCH, &path, self.team(), body);
        json(&operation, &changed.await?.2)
    }

    /// Removes a webhook.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove_webhook(&self, id: &str) -> Result<(), ClientError> {
        let operation = format!("remove webhook {id}");
        let path = format!("/events/webhooks/{}", segment(id));
        self.call(&operation, Method::DELETE, &path, self.team(), None)
            .await
            .map(drop)
    }

    /// A page of what became of a webhook's deliveries, newest first.
    ///
    /// # Errors
    /// When there is no such webhook.
    pub async fn webhook_deliveries(
        &self,
        id: &str,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<WebhookDelivery>, ClientError> {
        let path = format!(
            "/events/webhooks/{}/deliveries?offset={offset}&limit={limit}",
            segment(id)
        );
        self.get(&format!("read the deliveries of webhook {id}"), &path)
            .await
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct EventStream {
    operation: String,
    body: Incoming,
    /// What has come of a block that is not whole yet.
    begun: Vec<u8>,
}

impl EventStream {
    /// The next event; none at the end.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no event.
    pub async fn next(&mut self) -> Result<Option<SandboxEvent>, ClientError> {
        loop {
            while let Some(block) = next_block(&mut self.begun) {
                if let Some(data) = data_of(&block) {
                    return json(&self.operation, data.as_bytes()).map(Some);
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.begun.extend_from_slice(bytes);
                    }
                }
                Some(Err(error)) => return Err(ClientError::broken(&self.operation, error)),
            }
        }
    }
}

/// Takes the first whole block off: what is before an empty line.
fn next_block(begun: &mut Vec<u8>) -> Option<String> {
    let end = begun.windows(2).position(|two| two == b"\n\n")?;
    let block: Vec<u8> = begun.drain(..end + 2).collect();
    Some(String::from_utf8_lossy(&block).into_owned())
}

/// What a block says, if it says something.
fn data_of(block: &str) -> Option<String> {
    let lines = block.lines().filter_map(|line| line.strip_prefix("data:"));
    let lines: Vec<&str> = lines
        .map(|text| text.strip_prefix(' ').unwrap_or(text))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        let mut begun = b"retry: 1\n\n:\n\nid: 1\ndata: {\ndata:}\n\nid: 2\nda".to_vec();
        let mut said = Vec::new();
        while let Some(block) = next_block(&mut begun) {
            said.extend(data_of(&block));
        }
        assert_eq!(
            (said, begun.as_slice()),
            (vec!["{\n}".to_owned()], &b"id: 2\nda"[..])
        );
    }
}
