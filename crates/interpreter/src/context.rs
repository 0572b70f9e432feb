//! One context: a kernel, made when it is needed, and who may use it now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::kernel::{Kernel, KernelError, Process};
use crate::language::{self, Changes};
use crate::start::Starter;

/// As callers see it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Description {
    pub(crate) id: String,
    pub(crate) language: String,
    pub(crate) cwd: PathBuf,
}

/// A context. Executions in it come one after the other: each holds the session.
pub(crate) struct Context {
    pub(crate) description: Description,
    pub(crate) session: tokio::sync::Mutex<Session>,
    /// The kernel's process, for those who want to end it while somebody has the session.
    process: Mutex<Option<Process>>,
    is_removed: AtomicBool,
}

/// What an execution has to itself.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) kernel: Option<Kernel>,
    /// Variables of the sandbox that the kernel has.
    pub(crate) globals: BTreeMap<String, String>,
    /// Which sandbox it was at the last execution; none before the first.
    pub(crate) identity: Option<String>,
}

impl Context {
    pub(crate) fn new(language: String, cwd: PathBuf) -> Self {
        Self {
            description: Description {
                id: uuid::Uuid::new_v4().to_string(),
                language,
                cwd,
            },
            session: tokio::sync::Mutex::default(),
            process: Mutex::default(),
            is_removed: AtomicBool::new(false),
        }
    }

    /// Makes sure that the session has a kernel that lives. What was said of one that has ended is returned.
    pub(crate) async fn ensure(
        &self,
        session: &mut Session,
        starter: &Starter,
    ) -> Result<Option<String>, KernelError> {
        let ended = match &mut session.kernel {
            Some(kernel) if kernel.process.is_alive() => return Ok(None),
            Some(kernel) => Some(kernel.process.ended().await),
            None => None,
        };
        *session = Session::default();
        let Description { language, cwd, .. } = &self.description;
        let kernel = starter.start(language, cwd).await?;
        *self.process() = Some(kernel.process.clone());
        // Whoever removed it meanwhile has found no process to end.
        if self.is_removed() {
            kernel.process.kill();
        }
        session.kernel = Some(kernel);
        Ok(ended)
    }

    /// Ends the kernel, also while it works, and makes another.
    pub(crate) async fn restart(&self, starter: &Starter) -> Result<(), KernelError> {
        self.kill();
        let mut session = self.session.lock().await;
        *session = Session::default();
        self.ensure(&mut session, starter).await.map(drop)
    }

    /// Ends the kernel for good.
    pub(crate) fn remove(&self) {
        self.is_removed.store(true, Ordering::SeqCst);
        self.kill();
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::SeqCst)
    }

    fn kill(&self) {
        if let Some(process) = self.process().as_ref() {
            process.kill();
        }
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// What has to run in the kernel, unseen, so that it is one of this sandbox with these variables.
    pub(crate) fn adopt(
        &mut self,
        language: &str,
        identity: String,
        globals: BTreeMap<String, String>,
    ) -> String {
        let changes = difference(&self.globals, &globals);
        self.identity = Some(identity);
        self.globals = globals;
        language::reseed(language).to_owned() + &language::change_environment(language, &changes)
    }

    /// What has to run after an execution that had variables of its own.
    pub(crate) fn undo(&self, language: &str, own: &BTreeMap<String, String>) -> String {
        let changes: Changes = own
            .keys()
            .map(|name| (name.clone(), self.globals.get(name).cloned()))
            .collect();
        language::change_environment(language, &changes)
    }
}

/// What makes `after` of `before`.
fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Changes {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let changed = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value));
    gone.map(|name| (name.clone(), None))
        .chain(changed.map(|(name, value)| (name.clone(), Some(value.clone()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn another_sandbox_has_its_own_variables_and_random_numbers() {
        let mut session = Session::default();
        let first = session.adopt("bash", "a".into(), variables(&[("A", "1"), ("B", "2")]));
        assert!(first.contains("RANDOM=") && first.ends_with("export A='1'\nexport B='2'\n"));
        let second = session.adopt("bash", "b".into(), variables(&[("B", "3")]));
        assert!(second.ends_with("unset A\nexport B='3'\n") && second.contains("RANDOM="));
        assert_eq!(session.identity.as_deref(), Some("b"));
    }

    #[test]
    fn an_execution_gives_back_what_it_has_covered() {
        let session = Session {
            globals: variables(&[("A", "1")]),
            ..Session::default()
        };
        let own = variables(&[("A", "x"), ("B", "y")]);
        assert_eq!(session.undo("bash", &own), "export A='1'\nunset B\n");
        assert_eq!(session.undo("bash", &BTreeMap::new()), "");
    }
}
