//! What the control plane has told envd: environment, token, default user and directory.
//!
//! The only owner of these facts. Set at boot and by `POST /init`, read by every request.

use std::collections::BTreeMap;
use std::sync::Mutex;

use soulbox_envd_proto::{Boot, InitBody};
use subtle::ConstantTimeEq;

use crate::clock;
use crate::sync::lock;
use crate::timestamp;
use crate::user::{User, UserError};

/// Shared by all requests.
#[derive(Debug)]
pub(crate) struct Settings(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `E2B_*`: what users see as the sandbox's identity. Users' variables never replace them.
    identity: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    token: Option<String>,
    default_user: Option<String>,
    default_workdir: Option<String>,
    /// Nanoseconds since 1970 of the last accepted `/init`.
    last_init: Option<i128>,
    /// Whether the control plane's time is to be taken over: only in a sandbox.
    sets_clock: bool,
}

/// What became of an `/init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InitOutcome {
    Applied,
    /// Older than the last accepted one.
    Stale,
    /// It did not show the token that is set.
    Unauthorized,
    /// It asked for an empty token, or its timestamp cannot be read.
    Invalid(&'static str),
}

impl Settings {
    pub(crate) fn new() -> Self {
        let identity = BTreeMap::from([("E2B_SANDBOX".to_owned(), "false".to_owned())]);
        Self(Mutex::new(State {
            identity,
            ..State::default()
        }))
    }

    /// The state of a sandbox at boot.
    pub(crate) fn booted(boot: &Boot) -> Self {
        let identity = [
            ("E2B_SANDBOX", "true"),
            ("E2B_SANDBOX_ID", boot.sandbox_id.as_str()),
            ("E2B_TEMPLATE_ID", boot.template_id.as_str()),
        ];
        let identity = identity
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let settings = Self(Mutex::new(State {
            identity,
            sets_clock: true,
            ..State::default()
        }));
        settings.init(&boot.init, None);
        settings
    }

    /// Applies an init request. `shown` is the token in the request's header.
    pub(crate) fn init(&self, body: &InitBody, shown: Option<&str>) -> InitOutcome {
        let mut state = lock(&self.0);
        if let Some(token) = &state.token {
            let matches = |other: Option<&str>| other.is_some_and(|other| same(token, other));
            if !matches(shown) && !matches(body.access_token.as_deref()) {
                return InitOutcome::Unauthorized;
            }
        }
        if body.access_token.as_deref() == Some("") {
            return InitOutcome::Invalid("access token must not be empty");
        }
        if let Some(text) = &body.timestamp {
            let Some(at) = timestamp::parse(text) else {
                return InitOutcome::Invalid("timestamp is not an RFC 3339 time");
            };
            if state.last_init.is_some_and(|last| at < last) {
                return InitOutcome::Stale;
            }
            state.last_init = Some(at);
            if state.sets_clock {
                clock::correct(at);
            }
        }
        state.token.clone_from(&body.access_token);
        if let Some(variables) = &body.env_vars {
            state.variables.clone_from(variables);
        }
        if let Some(user) = body.default_user.as_ref().filter(|user| !user.is_empty()) {
            state.default_user = Some(user.clone());
        }
        if let Some(workdir) = body
            .default_workdir
            .as_ref()
            .filter(|workdir| !workdir.is_empty())
        {
            state.default_workdir = Some(workdir.clone());
        }
        let ids = [
            ("E2B_SANDBOX_ID", &body.sandbox_id),
            ("E2B_TEMPLATE_ID", &body.template_id),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                state.identity.insert(name.to_owned(), id.clone());
            }
        }
        InitOutcome::Applied
    }

    /// The variables every process gets, identity over the users' own.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let state = lock(&self.0);
        let mut all = state.variables.clone();
        all.extend(state.identity.clone());
        all
    }

    pub(crate) fn token(&self) -> Option<String> {
        lock(&self.0).token.clone()
    }

    /// Whether a request with this header may pass: always when no token is set.
    pub(crate) fn admits(&self, shown: Option<&[u8]>) -> bool {
        match &lock(&self.0).token {
            None => true,
            Some(token) => shown.is_some_and(|shown| token.as_bytes().ct_eq(shown).into()),
        }
    }

    pub(crate) fn default_workdir(&self) -> Option<String> {
        lock(&self.0).default_workdir.clone()
    }

    /// The named account, or the default one.
    pub(crate) fn user(&self, name: Option<&str>) -> Result<User, UserError> {
        match name {
            Some(name) if !name.is_empty() => User::find(name),
            _ => User::find(&self.default_user()),
        }
    }

    pub(crate) fn default_user(&self) -> String {
        lock(&self.0)
            .default_user
            .clone()
            .unwrap_or_else(|| "root".to_owned())
    }
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(token: Option<&str>) -> InitBody {
        InitBody {
            access_token: token.map(str::to_owned),
            ..InitBody::default()
        }
    }

    #[test]
    fn a_set_token_must_be_shown() {
        let settings = Settings::new();
        assert!(settings.admits(None));
        assert_eq!(settings.init(&body(Some("a")), None), InitOutcome::Applied);
        assert!(!settings.admits(None));
        assert!(settings.admits(Some(b"a")));
        assert_eq!(
            settings.init(&body(Some("b")), None),
            InitOutcome::Unauthorized
        );
        assert_eq!(settings.init(&body(Some("a")), None), InitOutcome::Applied);
        assert_eq!(
            settings.init(&body(Some("b")), Some("a")),
            InitOutcome::Applied
        );
        assert_eq!(
            settings.init(&body(None), Some("wrong")),
            InitOutcome::Unauthorized
        );
        assert_eq!(settings.init(&body(None), Some("b")), InitOutcome::Applied);
        assert_eq!(settings.token(), None);
        assert!(matches!(
            settings.init(&body(Some("")), None),
            InitOutcome::Invalid(_)
        ));
    }

    #[test]
    fn older_inits_are_ignored() {
        let settings = Settings::new();
        let at = |text: &str, user: &str| InitBody {
            timestamp: Some(text.into()),
            default_user: Some(user.into()),
            ..InitBody::default()
        };
        assert_eq!(
            settings.init(&at("2026-01-02T00:00:00Z", "new"), None),
            InitOutcome::Applied
        );
        assert_eq!(
            settings.init(&at("2026-01-01T00:00:00Z", "old"), None),
            InitOutcome::Stale
        );
        assert_eq!(settings.default_user(), "new");
        assert!(matches!(
            settings.init(&at("yesterday", "x"), None),
            InitOutcome::Invalid(_)
        ));
    }

    #[test]
    fn identity_wins_over_variables() {
        let boot = Boot {
            sandbox_id: "sb".into(),
            template_id: "tp".into(),
            init: InitBody::default(),
        };
        let settings = Settings::booted(&boot);
        let variables = [("A", "1"), ("E2B_SANDBOX_ID", "forged")];
        let variables = variables
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        settings.init(
            &InitBody {
                env_vars: Some(variables),
                ..InitBody::default()
            },
            None,
        );
        let all = settings.variables();
        assert_eq!(
            (all["A"].as_str(), all["E2B_SANDBOX_ID"].as_str()),
            ("1", "sb")
        );
        settings.init(
            &InitBody {
                env_vars: Some(BTreeMap::new()),
                ..InitBody::default()
            },
            None,
        );
        assert!(!settings.variables().contains_key("A"));
    }
}
