//! What makes programs of a sandbox trust the authority of its rules, and that of names of sandboxes where the server has
//! one of its own: a file with these certificates, the bundle of those that are trusted, and the stores of Java programs, as
//! files through envd, and the variables by which programs find them.
//!
//! No program of the sandbox is run for it: images without a shell have rules, too.

mod java;

use std::collections::BTreeMap;

use bytes::Bytes;
use soulbox_client::{ClientError, Code, Envd, system_bundle};
use soulbox_types::rules::HeaderRules;
use soulbox_types::{NetworkMode, SandboxSpec};

/// These certificates alone. `update-ca-certificates` puts what lies here into the bundle, too.
const CERTIFICATE: &str = "/usr/local/share/ca-certificates/soulbox.crt";
/// The bundle that the variables name.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where distributions have theirs. The first that is there is the one that is gone on from.
const BUNDLES: [&str; 4] = [
    BUNDLE,
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// What a program may have put there is read up to here.
const MOST_BYTES: usize = 4 * 1024 * 1024;
const BEGIN: &str = "# SoulBox: authorities of this sandbox\n";
const END: &str = "# SoulBox: end\n";

/// Variables that take a bundle in the place of the program's own: OpenSSL and Go, Python's requests, curl, git, pip, AWS.
const TAKE_BUNDLE: [&str; 6] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
];
/// Variables that take certificates besides the program's own: Node, Deno.
const TAKE_CERTIFICATE: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// The rules that a sandbox is to have, if any.
pub(crate) fn rules(network: &NetworkMode) -> Option<&HeaderRules> {
    network.policy()?.rules.as_deref()
}

/// What a sandbox may reach, with what it keeps of before: its tokens, which are named when it is created; and the authority
/// that it trusts already where that is for the same domains, because programs that run have read its certificate.
pub(crate) fn going_on_from(mut network: NetworkMode, before: &NetworkMode) -> NetworkMode {
    let tokens = before.policy().map(|policy| policy.tokens.clone());
    if let Some(tokens) = tokens.filter(|tokens| !tokens.is_empty()) {
        let mut policy = network.policy().cloned().unwrap_or_default();
        policy.tokens = tokens;
        network = NetworkMode::Filtered(policy);
    }
    if let (NetworkMode::Filtered(policy), Some(before)) = (&mut network, rules(before))
        && let Some(rules) = policy.rules.as_deref_mut()
    {
        let domains = |rules: &HeaderRules| -> Vec<_> {
            rules.list.iter().map(|rule| rule.domain.clone()).collect()
        };
        if domains(rules) == domains(before) {
            rules.authority = before.authority.clone();
        }
    }
    network
}

/// The specification with the variables by which programs find what they are to trust. What the caller has set stays.
pub(crate) fn with_variables(spec: &SandboxSpec, trusts: bool) -> SandboxSpec {
    let mut spec = spec.clone();
    if trusts {
        add_variables(&mut spec.env_vars);
    }
    spec
}

pub(crate) fn add_variables(variables: &mut BTreeMap<String, String>) {
    let bundle = TAKE_BUNDLE.map(|name| (name, BUNDLE));
    let certificate = TAKE_CERTIFICATE.map(|name| (name, CERTIFICATE));
    for (name, value) in bundle.into_iter().chain(certificate) {
        variables
            .entry(name.to_owned())
            .or_insert_with(|| value.to_owned());
    }
}

/// Puts the files in place, for a sandbox with these variables. In the place of earlier authorities come these.
pub(crate) async fn install(
    envd: &Envd,
    certificates: &str,
    variables: &BTreeMap<String, String>,
) -> Result<(), ClientError> {
    let stores = java::stores(variables);
    tokio::try_join!(
        in_bundles(envd, certificates),
        java::install(envd, certificates, &stores),
    )
    .map(drop)
}

async fn in_bundles(envd: &Envd, certificates: &str) -> Result<(), ClientError> {
    write(envd, CERTIFICATE, certificates.to_owned()).await?;
    let mut found = None;
    for path in BUNDLES {
        if let Some(text) = read(envd, path).await? {
            found = Some((path, text));
            break;
        }
    }
    // An image that trusts nobody trusts whom this host does: its programs are told to look into the bundle.
    let (path, text) = found.unwrap_or_else(|| (BUNDLE, of_this_host()));
    let bundle = with_authorities(&text, certificates);
    if path != BUNDLE {
        write(envd, path, bundle.clone()).await?;
    }
    write(envd, BUNDLE, bundle).await
}

fn of_this_host() -> String {
    let read = system_bundle().map(std::fs::read_to_string);
    read.and_then(Result::ok).unwrap_or_default()
}

/// A bundle with these authorities, and no others of ours.
fn with_authorities(bundle: &str, certificates: &str) -> String {
    let mut text = match bundle.split_once(BEGIN) {
        Some((before, ours)) => {
            let after = ours.split_once(END).map_or("", |(_, after)| after);
            format!("{before}{after}")
        }
        None => bundle.to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    format!("{text}{BEGIN}{}\n{END}", certificates.trim_end())
}

/// A file's text; `None` when there is none, or what is there is no bundle.
async fn read(envd: &Envd, path: &str) -> Result<Option<String>, ClientError> {
    let bytes = fetch(envd, path).await?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
}

/// What is in a file; `None` when there is none, or too much.
async fn fetch(envd: &Envd, path: &str) -> Result<Option<Vec<u8>>, ClientError> {
    let mut download = match envd.download(path, Some("root")).await {
        Ok(download) => download,
        Err(ClientError::Refused {
            code: Code::Http(400 | 404),
            ..
        }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        if bytes.len() + piece.len() > MOST_BYTES {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

async fn write(envd: &Envd, path: &str, text: impl Into<Bytes>) -> Result<(), ClientError> {
    envd.write(path, Some("root"), text).await.map(drop)
}

#[cfg(test)]
mod tests {
    use soulbox_types::rules::{Authority, HeaderRule};
    use soulbox_types::{DomainPattern, EgressPolicy};

    use super::*;

    #[test]
    fn a_bundle_has_our_authorities_once() {
        let first = with_authorities("system\n", "ONE\n");
        assert_eq!(first, format!("system\n{BEGIN}ONE\n{END}"));
        let behind = format!("{first}added later\n");
        let second = with_authorities(&behind, "TWO\n");
        assert_eq!(second, format!("system\nadded later\n{BEGIN}TWO\n{END}"));
        assert_eq!(with_authorities("", "ONE"), format!("{BEGIN}ONE\n{END}"));
        assert_eq!(
            with_authorities("no line break", "ONE"),
            format!("no line break\n{BEGIN}ONE\n{END}")
        );
    }

    #[test]
    fn programs_that_run_go_on_trusting_what_they_have_read() {
        let network = |domain: &str, authority: &str| {
            NetworkMode::Filtered(EgressPolicy {
                rules: Some(Box::new(HeaderRules {
                    team: "00000000-0000-4000-8000-000000000000".parse().unwrap(),
                    authority: Authority {
                        name: authority.into(),
                        certificate: authority.into(),
                        sealed_key: authority.into(),
                    },
                    list: vec![HeaderRule {
                        domain: DomainPattern::parse(domain).unwrap(),
                        headers: vec![("x".into(), authority.into())],
                    }],
                })),
                ..EgressPolicy::default()
            })
        };
        let name = |changed: &NetworkMode| rules(changed).unwrap().authority.name.clone();
        let before = network("a.example", "first");
        let same = going_on_from(network("a.example", "second"), &before);
        assert_eq!(name(&same), "first");
        assert_eq!(rules(&same).unwrap().list[0].headers[0].1, "second");
        let other = going_on_from(network("b.example", "second"), &before);
        assert_eq!(name(&other), "second");
        let none = going_on_from(NetworkMode::Internet, &before);
        assert_eq!(none, NetworkMode::Internet);
        let tokens = NetworkMode::Filtered(EgressPolicy {
            tokens: BTreeMap::from([("t".to_owned(), "for".to_owned())]),
            ..EgressPolicy::default()
        });
        assert_eq!(going_on_from(NetworkMode::Internet, &tokens), tokens);
    }

    #[test]
    fn what_the_caller_has_set_stays() {
        let mut variables = BTreeMap::from([("SSL_CERT_FILE".to_owned(), "/mine".to_owned())]);
        add_variables(&mut variables);
        assert_eq!(variables["SSL_CERT_FILE"], "/mine");
        assert_eq!(variables["REQUESTS_CA_BUNDLE"], BUNDLE);
        assert_eq!(variables["NODE_EXTRA_CA_CERTS"], CERTIFICATE);
    }
}
