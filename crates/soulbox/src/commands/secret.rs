//! `soulbox secret create|update|list|show|delete`.

use std::io::Read as _;
use std::path::Path;

use serde_json::json;
use soulbox_api_types::secret::{NewSecret, Secret, SecretUpdate};
use soulbox_client::{Api, ClientError};

use crate::args::{SecretCommand, SecretValueArgs};
use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::session::failure;
use crate::text::moment;

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: ClientError) -> Failure {
    failure(&error, None)
}

/// Runs one of them.
pub(crate) async fn run(api: &Api, command: SecretCommand, output: Output) -> Result<(), Failure> {
    match command {
        SecretCommand::Create { name, value } => {
            let SecretValueArgs { file, metadata } = value;
            let new = NewSecret {
                name,
                value: read(&file)?,
                metadata: Some(metadata.into_iter().collect()),
            };
            let made = api.create_secret(&new).await.map_err(refused)?;
            output.show(&made, |made| made.secret_id.clone())
        }
        SecretCommand::Update { secret, value } => {
            let SecretValueArgs { file, metadata } = value;
            let update = SecretUpdate {
                value: read(&file)?,
                metadata: (!metadata.is_empty()).then(|| metadata.into_iter().collect()),
            };
            let changed = api.update_secret(&secret, &update).await;
            output.show(&changed.map_err(refused)?, one)
        }
        SecretCommand::List => list(api, output).await,
        SecretCommand::Show { secret } => {
            output.show(&api.secret(&secret).await.map_err(refused)?, one)
        }
        SecretCommand::Delete { secrets } => {
            for secret in &secrets {
                api.remove_secret(secret).await.map_err(refused)?;
            }
            output.show(&json!({ "removed": secrets }), |_| String::new())
        }
    }
}

async fn list(api: &Api, output: Output) -> Result<(), Failure> {
    let secrets = api.secrets().await.map_err(refused)?;
    if output == Output::Text && secrets.is_empty() {
        note("no secrets; `soulbox secret create` makes one");
        return Ok(());
    }
    output.show(&secrets, |secrets| {
        let rows = secrets.iter().map(|secret| {
            [
                secret.name.clone(),
                secret.secret_id.clone(),
                secret.current_version.to_string(),
                moment(&secret.updated_at),
            ]
        });
        table(["NAME", "ID", "VERSION", "CHANGED"], rows)
    })
}

fn read(file: &Path) -> Result<String, Failure> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.map_err(|error| {
        Failure::user(format!("cannot read {}: {error}", file.display()))
            .fix("name a file with text that can be read")
    })?;
    Ok(value(&text).to_owned())
}

/// Editors and `echo` put a line break at the end.
fn value(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn one(secret: &Secret) -> String {
    let labels: Vec<String> = secret
        .metadata
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let rows = [
        ("name", secret.name.clone()),
        ("id", secret.secret_id.clone()),
        ("version", secret.current_version.to_string()),
        ("metadata", labels.join(",")),
        ("created", moment(&secret.created_at)),
        ("changed", moment(&secret.updated_at)),
    ];
    let lines = rows.map(|(name, value)| format!("{name:<10}{value}"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn one_line_break_is_not_the_values() {
        for (text, want) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a")] {
            assert_eq!(value(text), want);
        }
    }
}
