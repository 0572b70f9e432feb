//! Secrets of a server, made at its first start, and the file that tells clients how to reach it.
//!
//! All in the data directory with mode 0600: `token.seed`, `admin.token`, `node.id`, `client.env`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use soulbox_store::Store;
use soulbox_types::ExecutionId;

use super::reached::Reached;
use crate::failure::Damaged;

/// Name of the key in `client.env`, as `soulbox key list` shows it.
const LOCAL_KEY: &str = "client.env";
/// The server makes 64 characters; an operator may have put another token there.
const SHORTEST_ADMIN_TOKEN: usize = 32;

/// What the server keeps from start to start.
pub(crate) struct Credentials {
    pub(crate) token_seed: [u8; 32],
    pub(crate) admin_token: String,
    pub(crate) node_id: String,
}

impl Credentials {
    /// Reads what is there, makes what is missing, and writes `client.env` for this address.
    pub(crate) async fn ensure(
        data_dir: &Path,
        store: &Store,
        reached: &Reached,
    ) -> anyhow::Result<Self> {
        let seed = ensure_file(&data_dir.join("token.seed"), || random_hex(32))?;
        let admin_token = ensure_file(&data_dir.join("admin.token"), || random_hex(32))?;
        let node_id = ensure_file(&data_dir.join("node.id"), || {
            ExecutionId::random().to_string()
        })?;
        let damaged = |name: &str, fix: &str| Damaged {
            what: format!("{} is damaged", data_dir.join(name).display()),
            fix: fix.to_owned(),
        };
        let token_seed = decode_seed(&seed).ok_or_else(|| {
            damaged(
                "token.seed",
                "restore it; without it running sandboxes cannot be entered",
            )
        })?;
        // An empty one would let everybody in who sends nothing.
        if admin_token.len() < SHORTEST_ADMIN_TOKEN {
            Err(damaged(
                "admin.token",
                "restore it, or remove it to get a new one",
            ))?;
        }
        if node_id.parse::<ExecutionId>().is_err() {
            Err(damaged(
                "node.id",
                "restore it, or remove it to get a new one",
            ))?;
        }
        let path = data_dir.join("client.env");
        let key = match known_key(&path, store).await? {
            Some(key) => key,
            None => {
                store
                    .create_api_key(&store.default_team().await?.id, LOCAL_KEY)
                    .await?
                    .1
            }
        };
        write_private(&path, &client_env(reached, &key)).context("cannot write client.env")?;
        soulbox_fault::point!("start.secrets-written");
        Ok(Self {
            token_seed,
            admin_token,
            node_id,
        })
    }
}

/// The key of an existing `client.env`, unless it has been revoked.
async fn known_key(path: &Path, store: &Store) -> anyhow::Result<Option<String>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let Some(key) = text
        .lines()
        .find_map(|line| line.strip_prefix("E2B_API_KEY="))
    else {
        return Ok(None);
    };
    let known = store.authenticate(key).await?.is_some();
    Ok(known.then(|| key.to_owned()))
}

/// The file's text. Where there is a plain port, every URL points at it, which needs no names; with HTTPS, clients find
/// everything by name.
fn client_env(reached: &Reached, key: &str) -> String {
    let mut lines = Vec::new();
    if let Some(https) = &reached.https {
        lines.push(format!("E2B_DOMAIN={}", https.domain));
        let trusted = https.trusted.iter().map(|path| path.display());
        lines.extend(trusted.flat_map(|path| {
            ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"].map(|name| format!("{name}={path}"))
        }));
    }
    if let Some(address) = reached.plain {
        for name in ["E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL"] {
            lines.push(format!("{name}=http://{address}"));
        }
    }
    lines.push(format!("E2B_API_KEY={key}"));
    lines.join("\n") + "\n"
}

/// The text of a file that is made once.
pub(super) fn ensure_file(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make();
            write_private(path, &text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes whole or not at all, readable by the owner only, and lasting.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    soulbox_fault::point!("start.secret-drafted");
    fs::rename(&draft, path)?;
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

pub(super) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).expect("the operating system provides randomness");
    buffer.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_seed(text: &str) -> Option<[u8; 32]> {
    let mut seed = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in seed.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::super::reached::Https;
    use super::*;

    #[test]
    fn what_clients_are_told() {
        let https = Https {
            domain: "box.test:8443".to_owned(),
            trusted: Some("/data/ca-box.test.pem".into()),
        };
        let both = Reached {
            plain: Some(([127, 0, 0, 1], 3000).into()),
            https: Some(https),
            domain: None,
        };
        let urls = "E2B_API_URL=http://127.0.0.1:3000\nE2B_SANDBOX_URL=http://127.0.0.1:3000\n\
                    E2B_VOLUME_API_URL=http://127.0.0.1:3000\n";
        let names = "E2B_DOMAIN=box.test:8443\nSSL_CERT_FILE=/data/ca-box.test.pem\n\
                     NODE_EXTRA_CA_CERTS=/data/ca-box.test.pem\n";
        let key = "E2B_API_KEY=k\n";
        assert_eq!(client_env(&both, "k"), format!("{names}{urls}{key}"));
        let names_only = Reached {
            plain: None,
            ..both.clone()
        };
        assert_eq!(client_env(&names_only, "k"), format!("{names}{key}"));
        let plain_only = Reached {
            https: None,
            ..both
        };
        assert_eq!(client_env(&plain_only, "k"), format!("{urls}{key}"));
    }

    #[test]
    fn seeds_round_trip() {
        let text = random_hex(32);
        let seed = decode_seed(&text).unwrap();
        assert_eq!(
            seed.iter().map(|b| format!("{b:02x}")).collect::<String>(),
            text
        );
        assert!(decode_seed("xx").is_none());
        assert!(decode_seed(&"zz".repeat(32)).is_none());
    }

    #[test]
    fn private_files() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert_eq!(ensure_file(&path, || "one".to_owned()).unwrap(), "one");
        assert_eq!(ensure_file(&path, || "two".to_owned()).unwrap(), "one");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
