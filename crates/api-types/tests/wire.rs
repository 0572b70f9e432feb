//! The bodies hold to the wire: required keys are written, optional ones left out, `null` only where allowed.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use soulbox_api_types::build::{ImageRegistry, StartTemplateBuild};
use soulbox_api_types::network::SandboxNetworkConfig;
use soulbox_api_types::sandbox::{ConnectSandbox, NewSandbox, PauseSandbox, Sandbox};
use soulbox_api_types::team::{CreatedTeamApiKey, KeyMask, Team, TeamApiKey};

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn nullable_keys_are_written_and_optional_ones_left_out() {
    let sandbox = Sandbox {
        template_id: "t".into(),
        sandbox_id: "s".into(),
        alias: None,
        client_id: "c".into(),
        envd_version: "0.6.9".into(),
        envd_access_token: None,
        traffic_access_token: None,
        domain: None,
    };
    let json = serde_json::to_value(&sandbox).unwrap();
    assert_eq!(
        keys(&json),
        BTreeSet::from([
            "templateID",
            "sandboxID",
            "clientID",
            "envdVersion",
            "trafficAccessToken",
            "domain"
        ])
    );
    assert_eq!(json["domain"], Value::Null);
}

#[test]
fn what_every_sdk_generation_sends_parses() {
    let newest = json!({"templateID": "base", "metadata": {}, "envVars": {}});
    let older = json!({"templateID": "base", "timeout": 300, "secure": true, "allow_internet_access": true,
                       "autoPause": false, "mcp": null, "unknown": [1]});
    let full = json!({"templateID": "a/b:c", "timeout": 9, "autoPause": true, "autoPauseMemory": false,
        "autoResume": {"enabled": true}, "allow_internet_access": false,
        "network": {"allowPublicTraffic": null, "allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "dnsServers": [],
            "egressProxy": {"address": "h:1", "username": "u", "password": "p", "tls": {"enabled": true}},
            "maskRequestHost": "x:${PORT}", "httpsPorts": [8443],
            "rules": {"a.b": [{"transform": {"headers": {"k": "v"}}}]}},
        "metadata": {"k": "v"}, "envVars": {"A": "1"}, "mcp": {"x": {}},
        "iam": {"tokens": {"t": {"audience": "a", "tokenType": "JWT-SVID"}}},
        "volumeMounts": [{"name": "v", "path": "/v"}]});
    for body in [newest, older, full] {
        let parsed: NewSandbox = serde_json::from_value(body.clone()).unwrap();
        let again: NewSandbox =
            serde_json::from_value(serde_json::to_value(&parsed).unwrap()).unwrap();
        assert_eq!(parsed, again);
    }
}

#[test]
fn null_and_wrong_types_are_refused_where_the_schema_forbids_them() {
    for body in [
        json!({"templateID": null}),
        json!({}),
        json!({"templateID": "x", "timeout": "300"}),
        json!({"templateID": "x", "timeout": null}),
        json!({"templateID": "x", "timeout": 1.5}),
        json!({"templateID": "x", "timeout": 99_999_999_999_u64}),
        json!({"templateID": "x", "metadata": {"k": 1}}),
        json!({"templateID": "x", "network": null}),
        json!({"templateID": "x", "autoResume": {}}),
    ] {
        assert!(
            serde_json::from_value::<NewSandbox>(body.clone()).is_err(),
            "{body}"
        );
    }
    assert_eq!(
        serde_json::from_str::<PauseSandbox>("{}").unwrap(),
        PauseSandbox::default()
    );
    assert!(serde_json::from_str::<ConnectSandbox>(r#"{"timeout":null}"#).is_err());
    assert!(serde_json::from_str::<SandboxNetworkConfig>(r#"{"allowPublicTraffic":null}"#).is_ok());
}

#[test]
fn registry_credentials_follow_their_type() {
    let body = json!({"fromImage": "x", "fromImageRegistry":
        {"type": "aws", "awsAccessKeyId": "a", "awsSecretAccessKey": "s", "awsRegion": "r"}});
    let parsed: StartTemplateBuild = serde_json::from_value(body).unwrap();
    assert!(matches!(
        parsed.from_image_registry,
        Some(ImageRegistry::Aws { .. })
    ));
    assert!(!format!("{parsed:?}").contains("\"s\""));
    let unknown = json!({"fromImageRegistry": {"type": "other"}});
    assert!(serde_json::from_value::<StartTemplateBuild>(unknown).is_err());
}

#[test]
fn secrets_do_not_reach_debug_output() {
    let team = Team {
        team_id: "t".into(),
        name: "n".into(),
        api_key: "e2b_secret".into(),
        is_default: true,
    };
    assert!(!format!("{team:?}").contains("e2b_secret"));
    let mask = KeyMask {
        prefix: "e2b_".into(),
        value_length: 40,
        masked_value_prefix: "aa".into(),
        masked_value_suffix: "bbbb".into(),
    };
    let record = TeamApiKey {
        id: "i".into(),
        name: "n".into(),
        mask,
        created_at: "now".into(),
        created_by: None,
        last_used: None,
    };
    let created = CreatedTeamApiKey {
        record,
        key: "e2b_secret".into(),
    };
    assert!(!format!("{created:?}").contains("e2b_secret"));
    let json = serde_json::to_value(&created).unwrap();
    assert_eq!(
        keys(&json),
        BTreeSet::from([
            "id",
            "name",
            "mask",
            "createdAt",
            "createdBy",
            "lastUsed",
            "key"
        ])
    );
    let body: NewSandbox =
        serde_json::from_value(json!({"templateID": "b", "envVars": {"K": "hidden"}})).unwrap();
    assert!(!format!("{body:?}").contains("hidden"));
}
