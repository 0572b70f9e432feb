//! The real router on a real database and the real orchestrator; only the kernel is faked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use soulbox_api::{AdminToken, ApiState, NodeIdentity, TeamLimits};
use soulbox_builder::{BuildSettings, Builds};
use soulbox_driver::testing::FakeDriver;
use soulbox_orchestrator::{Sandboxes, Settings, Volumes};
use soulbox_secrets::{Identity, Secrets};
use soulbox_store::{BootstrapTemplate, ResolvedTemplate, Store, Team};
use soulbox_types::{Limits, TeamId, TemplateId, Timestamp};
use soulbox_webhooks::{Places, Webhooks};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// The one layer of every template.
pub(crate) const LAYER: &str = "d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1";
pub(crate) const ADMIN: &str = "operator-secret";
const MAX_CONCURRENT: usize = 20;
pub(crate) const MAX_BUILDS: usize = 3;

/// One server with two teams: `team`, whose key requests carry by default, and `other`.
pub(crate) struct Stack {
    pub(crate) router: Router,
    pub(crate) store: Store,
    pub(crate) driver: FakeDriver,
    pub(crate) team: Team,
    pub(crate) key: String,
    pub(crate) other: Team,
    pub(crate) other_key: String,
    pub(crate) base: ResolvedTemplate,
    pub(crate) shutdown: CancellationToken,
    database: PathBuf,
    _dir: tempfile::TempDir,
}

impl Stack {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("soulbox.db");
        let store = Store::open(&database).await.unwrap();
        let base = store
            .upsert_bootstrap_template(&bootstrap("base"))
            .await
            .unwrap();
        let team = store.default_team().await.unwrap();
        let other = add_team(&database, "other").await;
        let driver = FakeDriver::new();
        let mut settings = Settings::new([7; 32]);
        settings.max_concurrent_per_team = MAX_CONCURRENT;
        let sandboxes = Sandboxes::start(store.clone(), Arc::new(driver.clone()), settings)
            .await
            .unwrap();
        let secrets = secrets(&store).await;
        let shutdown = CancellationToken::new();
        let router = soulbox_api::router(ApiState {
            sandboxes,
            egress_proxies: soulbox_outbound::Reach::default(),
            store: store.clone(),
            admin_token: AdminToken::new(ADMIN),
            limits: TeamLimits {
                max_timeout: Duration::from_hours(24),
                max_concurrent: MAX_CONCURRENT,
                max_vcpu: 8,
                max_memory_mib: 8192,
                max_concurrent_builds: MAX_BUILDS,
            },
            node: node(dir.path()),
            shutdown: shutdown.clone(),
            builds: Builds::open(
                store.clone(),
                Arc::new(driver.clone()),
                BuildSettings {
                    uploads: dir.path().join("uploads"),
                    registries: soulbox_registry::Registries::new(
                        soulbox_registry::Network::default(),
                        String::new(),
                        soulbox_registry::Blobs::open(dir.path().join("pulls")).unwrap(),
                    ),
                    mirrors: soulbox_builder::Mirrors::default(),
                    tokens: Arc::new(ToString::to_string),
                    longest: Duration::from_hours(1),
                },
            )
            .await
            .unwrap(),
            volumes: Volumes::open(store.clone(), Arc::new(driver.clone()), 64)
                .await
                .unwrap(),
            webhooks: Webhooks::start(
                store.clone(),
                secrets.clone(),
                soulbox_webhooks::Settings::new(Places::new(vec!["127.0.0.1".parse().unwrap()])),
            ),
            identity: identity(&secrets),
            secrets,
            upload_key: [9; 32],
            public_url: "http://soulbox.test".into(),
            port_urls: Arc::new(|id, port, signed| format!("{port}-{id} {signed:?}")),
        });
        let (_, key) = store.create_api_key(&team.id, "test").await.unwrap();
        let (_, other_key) = store.create_api_key(&other.id, "test").await.unwrap();
        Self {
            router,
            store,
            driver,
            team,
            key,
            other,
            other_key,
            base,
            shutdown,
            database,
            _dir: dir,
        }
    }

    /// A request with the team's key.
    pub(crate) fn call(&self, method: Method, path: impl Into<String>) -> Call {
        self.bare(method, path).header("x-api-key", &self.key)
    }

    /// A request with the key of the other team.
    pub(crate) fn foreign(&self, method: Method, path: impl Into<String>) -> Call {
        self.bare(method, path).header("x-api-key", &self.other_key)
    }

    /// A request of the operator.
    pub(crate) fn admin(&self, method: Method, path: impl Into<String>) -> Call {
        self.bare(method, path).header("x-admin-token", ADMIN)
    }

    /// A request without credentials.
    pub(crate) fn bare(&self, method: Method, path: impl Into<String>) -> Call {
        Call {
            router: self.router.clone(),
            method,
            path: path.into(),
            headers: vec![],
            body: Body::empty(),
        }
    }

    pub(crate) async fn get(&self, path: impl Into<String>) -> Answer {
        self.call(Method::GET, path).send().await
    }

    pub(crate) async fn post(&self, path: impl Into<String>, body: Value) -> Answer {
        self.call(Method::POST, path).json(&body).send().await
    }

    pub(crate) async fn delete(&self, path: impl Into<String>) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// Creates a sandbox from `base` with these extra fields and gives its id.
    pub(crate) async fn create(&self, mut extra: Value) -> String {
        extra["templateID"] = "base".into();
        let answer = self.post("/v2/sandboxes", extra).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["sandboxID"].as_str().unwrap().to_owned()
    }

    /// Gives a template of the server to the other team and closes it to everybody else.
    pub(crate) async fn private_template_of_other(&self, alias: &str) -> TemplateId {
        let template = self
            .store
            .upsert_bootstrap_template(&bootstrap(alias))
            .await
            .unwrap()
            .template;
        let mut db = connect(&self.database).await;
        sqlx::query(
            "UPDATE templates SET team_id = $1, public = FALSE, is_default = FALSE WHERE id = $2",
        )
        .bind(self.other.id.as_str())
        .bind(template.id.as_str())
        .execute(&mut db)
        .await
        .unwrap();
        template.id
    }
}

async fn secrets(store: &Store) -> Secrets {
    let key = soulbox_secrets::Key::parse(&"5a".repeat(32)).unwrap();
    Secrets::open(store.clone(), key).await.unwrap()
}

fn node(data_dir: &std::path::Path) -> NodeIdentity {
    NodeIdentity {
        id: "node1".into(),
        version: "0.1.0".into(),
        commit: "abc".into(),
        data_dir: data_dir.to_owned(),
    }
}

fn identity(secrets: &Secrets) -> Arc<Identity> {
    let identity = secrets.identity(&secrets.new_identity(), "http://soulbox.test");
    Arc::new(identity.unwrap())
}

fn bootstrap(alias: &str) -> BootstrapTemplate {
    BootstrapTemplate {
        alias: alias.into(),
        description: Some("test".into()),
        limits: Limits::STANDARD,
        layers: vec![LAYER.into()],
        envd_version: "0.6.9".into(),
        default_user: "user".into(),
        default_workdir: None,
    }
}

/// The store has no call for a second team yet, so the row is written past it.
async fn add_team(database: &std::path::Path, slug: &str) -> Team {
    let team = Team {
        id: TeamId::random(),
        name: slug.into(),
        slug: slug.into(),
        created_at: Timestamp::now(),
    };
    let mut db = connect(database).await;
    sqlx::query("INSERT INTO teams (id, name, slug, created_at) VALUES ($1, $2, $3, $4)")
        .bind(team.id.as_str())
        .bind(&team.name)
        .bind(&team.slug)
        .bind(team.created_at.0)
        .execute(&mut db)
        .await
        .unwrap();
    team
}

async fn connect(database: &std::path::Path) -> sqlx::SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(database)
        .busy_timeout(Duration::from_secs(5));
    sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap()
}

/// A request being written.
pub(crate) struct Call {
    router: Router,
    method: Method,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Body,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    pub(crate) fn raw(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self.header("content-type", "application/json")
    }

    pub(crate) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let mut request = Request::builder().method(self.method).uri(self.path);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let response = self
            .router
            .oneshot(request.body(self.body).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes,
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts an error of the contract's form, and that its message contains a text.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, message: &str) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        assert_error_form(self);
        let body = self.json();
        assert!(
            body["message"].as_str().unwrap().contains(message),
            "wanted {message:?}: {body}"
        );
        self
    }

    /// Asserts success without a body.
    #[track_caller]
    pub(crate) fn empty(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.bytes.is_empty(), "{}", self.text());
        self
    }

    /// Asserts success, and gives the body.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }
}

/// Every error: JSON, `code` equal to the status, a message, and nothing but an `error_code` besides.
#[track_caller]
pub(crate) fn assert_error_form(answer: &Answer) {
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{}",
        answer.text()
    );
    let body = answer.json();
    assert_eq!(body["code"], answer.status.as_u16());
    assert!(!body["message"].as_str().unwrap().is_empty());
    assert!(
        keys(&body)
            .iter()
            .all(|key| ["code", "message", "error_code"].contains(&key.as_str())),
        "{body}"
    );
}

/// The keys of a JSON object.
#[track_caller]
pub(crate) fn keys(value: &Value) -> BTreeSet<String> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("{value}"))
        .keys()
        .cloned()
        .collect()
}

/// Asserts the exact keys of a JSON object.
#[track_caller]
pub(crate) fn assert_keys(value: &Value, want: &[&str]) {
    assert_eq!(
        keys(value),
        want.iter().map(|key| (*key).to_owned()).collect()
    );
}

/// Asserts the wire's form of a time: UTC with at most six digits after the seconds.
#[track_caller]
pub(crate) fn assert_time(value: &Value) {
    let text = value.as_str().unwrap();
    assert!(
        Timestamp::parse_rfc3339(text).is_some() && text.ends_with('Z'),
        "{text}"
    );
    let fraction = text
        .split_once('.')
        .map_or("", |(_, rest)| rest.trim_end_matches('Z'));
    assert!(fraction.len() <= 6, "{text}");
}
