//! Under which name the result of a step is kept: everything that it depends on, hashed.

use sha2::{Digest as _, Sha256};
use soulbox_types::{BuildContext, BuildId};

use crate::hash::hex;
use crate::request::Step;

/// Another number makes everything that was kept before unfindable. It stands for how steps are carried out.
const VERSION: &str = "soulbox build 1";

/// The key of a state that a build has reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// The key of a finished build that another one goes on from.
    pub(crate) fn of_build(build: &BuildId, context: &BuildContext) -> Self {
        let mut parts = vec![VERSION.to_owned(), "build".to_owned(), build.to_string()];
        parts.extend(texts(context));
        Self(hash(&parts))
    }

    /// The key of an image of a registry or an archive, made into a layer.
    pub(crate) fn of_image(digest: &str) -> Self {
        Self(hash(&[
            VERSION.to_owned(),
            "image".to_owned(),
            digest.to_owned(),
        ]))
    }

    /// The key of what is done to this state, in words of our own.
    pub(crate) fn and(&self, words: &[&str]) -> Self {
        let mut parts = vec![self.0.clone()];
        parts.extend(words.iter().map(|&word| word.to_owned()));
        Self(hash(&parts))
    }

    /// The key of what a step makes of this state.
    pub(crate) fn after(&self, step: &Step) -> Self {
        let mut parts = vec![self.0.clone(), step.kind()];
        parts.extend(step.args.iter().cloned());
        parts.push(step.files_hash.clone().unwrap_or_default());
        Self(hash(&parts))
    }

    /// The key of all layers of this state as one.
    pub(crate) fn squashed(&self) -> Self {
        self.and(&["squashed"])
    }

    /// The name in the database.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What logs show of it.
    pub(crate) fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// The context decides what a step does, wherever it comes from.
fn texts(context: &BuildContext) -> Vec<String> {
    let mut texts = vec![
        context.user.clone(),
        context.workdir.clone().unwrap_or_default(),
    ];
    for (key, value) in &context.env {
        texts.extend([key.clone(), value.clone()]);
    }
    texts
}

/// Lengths keep neighbours apart: `["a", "b"]` is not `["ab"]`.
fn hash(parts: &[String]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hex(hasher)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &str, args: &[&str], files: Option<&str>) -> Step {
        Step {
            kind: kind.to_owned(),
            args: args.iter().map(|text| (*text).to_owned()).collect(),
            files_hash: files.map(str::to_owned),
            force: false,
        }
    }

    #[test]
    fn everything_counts() {
        let build = BuildId::random();
        let context = BuildContext::default();
        let base = Key::of_build(&build, &context);
        let mut seen = vec![base.clone()];
        for step in [
            step("RUN", &["a", "b"], None),
            step("RUN", &["a b"], None),
            step("RUN", &["ab"], None),
            step("COPY", &["a", "b"], None),
            step("COPY", &["a", "b"], Some("x")),
            step("COPY", &["a", "b"], Some("y")),
        ] {
            let key = base.after(&step);
            assert!(!seen.contains(&key), "{step:?}");
            seen.push(key);
        }
        assert_eq!(
            base.after(&step("run", &["a"], None)),
            base.after(&step("RUN", &["a"], None))
        );
        assert_ne!(base, Key::of_build(&BuildId::random(), &context));
        let other = BuildContext {
            user: "me".to_owned(),
            ..context
        };
        assert_ne!(base, Key::of_build(&build, &other));
        assert_ne!(base, base.squashed());
    }
}
