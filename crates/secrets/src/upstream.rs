//! Passwords of the proxies that sandboxes go through: sealed for one proxy and one user of it.
//!
//! A sealed password travels with the sandbox's policy, over forks and restarts. Put beside another host or name, it cannot
//! be opened: so nobody who can write a policy sends it to a proxy of his own.

use data_encoding::BASE64;
use soulbox_types::upstream::{Credentials, Upstream};

use crate::{Secrets, Value};

/// A password was sealed with another key, or for another proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the password of an egress proxy cannot be read with this key\nFIX: give the sandbox its egressProxy again"
)]
pub struct NoPassword;

impl Secrets {
    /// The proxy with credentials of it.
    #[must_use]
    pub fn with_credentials(
        &self,
        mut proxy: Upstream,
        username: &str,
        password: &Value,
    ) -> Upstream {
        let sealed = self.key.seal(&place(&proxy, username), password);
        proxy.credentials = Some(Credentials {
            username: username.to_owned(),
            sealed_password: BASE64.encode(&sealed),
        });
        proxy
    }

    /// The username and the password that a proxy is told, if any.
    ///
    /// # Errors
    /// When the password was sealed by another server, or for another proxy.
    pub fn credentials<'a>(
        &self,
        proxy: &'a Upstream,
    ) -> Result<Option<(&'a str, Value)>, NoPassword> {
        let Some(credentials) = &proxy.credentials else {
            return Ok(None);
        };
        let username = credentials.username.as_str();
        let sealed = BASE64
            .decode(credentials.sealed_password.as_bytes())
            .map_err(|_| NoPassword)?;
        let password = self.key.open(&place(proxy, username), &sealed);
        Ok(Some((username, password.map_err(|_| NoPassword)?)))
    }
}

fn place(proxy: &Upstream, username: &str) -> String {
    let Upstream {
        team, host, port, ..
    } = proxy;
    format!("egress-proxy {team} {host}:{port} {username}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use soulbox_store::Store;
    use soulbox_types::TeamId;

    use super::*;
    use crate::Key;

    async fn secrets(digit: &str) -> (tempfile::TempDir, Secrets) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("soulbox.db")).await.unwrap();
        let key = Arc::new(Key::parse(&digit.repeat(64)).unwrap());
        (dir, Secrets { store, key })
    }

    #[tokio::test]
    async fn a_password_is_for_one_proxy() {
        let (_dir, secrets) = secrets("a").await;
        let bare = Upstream {
            team: TeamId::random(),
            host: "proxy.example".into(),
            port: 1080,
            credentials: None,
            tls: None,
        };
        assert_eq!(secrets.credentials(&bare), Ok(None));
        let proxy = secrets.with_credentials(bare, "user", &Value::new("hidden"));
        let sealed = proxy.credentials.as_ref().unwrap();
        let shown = format!("{proxy:?} {}", sealed.sealed_password);
        assert!(!shown.contains("hidden"), "{shown}");
        let opened = secrets.credentials(&proxy).unwrap().unwrap();
        assert_eq!((opened.0, opened.1.expose()), ("user", "hidden"));
        let moved = |change: &dyn Fn(&mut Upstream)| {
            let mut proxy = proxy.clone();
            change(&mut proxy);
            secrets.credentials(&proxy).is_err()
        };
        assert!(moved(&|it| it.host = "thief.example".into()));
        assert!(moved(&|it| it.port = 1081));
        assert!(moved(&|it| it.team = TeamId::random()));
        let (_other_dir, other) = self::secrets("b").await;
        assert!(other.credentials(&proxy).is_err());
    }
}
