//! What deliveries of webhooks are signed with: sealed like secrets, each for its webhook.

use soulbox_store::Webhook;
use soulbox_types::{TeamId, WebhookId};

use crate::{Secrets, SecretsError, Value};

impl Secrets {
    /// Seals what a webhook's deliveries are signed with.
    #[must_use]
    pub fn seal_for_webhook(&self, team: &TeamId, webhook: &WebhookId, secret: &Value) -> Vec<u8> {
        self.key.seal(&place(team, webhook), secret)
    }

    /// What a webhook's deliveries are signed with.
    ///
    /// # Errors
    /// When it was sealed with another key, or is damaged.
    pub fn of_webhook(&self, webhook: &Webhook) -> Result<Value, SecretsError> {
        let opened = self
            .key
            .open(&place(&webhook.team, &webhook.id), &webhook.sealed);
        opened.map_err(|_| SecretsError::SealedWebhook(webhook.id.clone()))
    }

    /// Seals those that stand in the clear, as they all did once.
    pub(crate) async fn seal_webhooks(&self) -> Result<(), SecretsError> {
        let clear = self.store.webhooks_in_the_clear().await?;
        if clear.is_empty() {
            return Ok(());
        }
        let sealed: Vec<_> = clear
            .into_iter()
            .map(|(id, team, secret)| {
                let sealed = self.seal_for_webhook(&team, &id, &Value::new(secret));
                (id, sealed)
            })
            .collect();
        Ok(self.store.seal_webhooks(&sealed).await?)
    }
}

fn place(team: &TeamId, webhook: &WebhookId) -> String {
    format!("webhook {webhook} {team}")
}

#[cfg(test)]
mod tests {
    use soulbox_store::Store;
    use soulbox_types::{EventKind, Timestamp};

    use super::*;
    use crate::Key;

    #[tokio::test]
    async fn sealed_for_one_webhook_only() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("soulbox.db"))
            .await
            .unwrap();
        let key = |digit: &str| Key::parse(&digit.repeat(64)).unwrap();
        let secrets = Secrets::open(store.clone(), key("a")).await.unwrap();
        let team = store.default_team().await.unwrap().id;
        let id = WebhookId::random();
        let made = Webhook {
            sealed: secrets.seal_for_webhook(&team, &id, &Value::new("hidden")),
            id,
            team,
            name: "n".into(),
            url: "https://hooks.example/".into(),
            enabled: true,
            kinds: vec![EventKind::Created],
            created_at: Timestamp(7),
        };
        assert_eq!(secrets.of_webhook(&made).unwrap().expose(), "hidden");
        let moved = Webhook {
            id: WebhookId::random(),
            ..made.clone()
        };
        assert!(matches!(
            secrets.of_webhook(&moved),
            Err(SecretsError::SealedWebhook(_))
        ));
        assert!(store.add_webhook(&made, 16).await.unwrap());
        let refused = Secrets::open(store.clone(), key("b")).await.unwrap_err();
        assert!(refused.to_string().contains("FIX: restore secrets.key"));
        assert!(Secrets::open(store, key("a")).await.is_ok());
    }
}
