//! All contexts of the sandbox, in the order in which they were made.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::context::{Context, Description};
use crate::envd::Envd;
use crate::kernel::KernelError;
use crate::kernelspec;
use crate::language;
use crate::notebooks::Notebooks;
use crate::run;
use crate::start::Starter;

/// More kernels than a sandbox has memory for; what is asked for in a loop by mistake ends here.
pub(crate) const CONTEXTS_MAX: usize = 64;

/// What the server knows.
pub(crate) struct World {
    pub(crate) starter: Starter,
    pub(crate) envd: Envd,
    /// Where contexts work when nobody says where.
    pub(crate) home: PathBuf,
    pub(crate) notebooks: Notebooks,
    contexts: Mutex<Vec<Entry>>,
}

struct Entry {
    context: Arc<Context>,
    /// Whether it is the one that a language alone means.
    is_default: bool,
}

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("Context {0} not found")]
    NotFound(String),
    #[error(
        "there are {CONTEXTS_MAX} contexts, and no more than that may be. FIX: remove one that is not needed any more"
    )]
    TooMany,
    #[error("the kernel of '{0}' did not start: {1}")]
    Kernel(String, #[source] KernelError),
}

impl World {
    pub(crate) fn new(starter: Starter, envd: Envd, home: PathBuf) -> Self {
        Self {
            starter,
            envd,
            home,
            notebooks: Notebooks::default(),
            contexts: Mutex::default(),
        }
    }

    /// A new context whose kernel answers.
    pub(crate) async fn create(
        &self,
        language: &str,
        cwd: Option<PathBuf>,
    ) -> Result<Arc<Context>, ContextError> {
        let language = language::normalized(language);
        let cwd = cwd.unwrap_or_else(|| self.home.clone());
        let context = self.add(Context::new(language, cwd), false)?;
        self.started(context).await
    }

    /// The context that a language alone means, made when it is asked for.
    pub(crate) async fn default_of(&self, language: &str) -> Result<Arc<Context>, ContextError> {
        let context = self.declare(language)?;
        // Somebody who has the session has a kernel, or is making one.
        if context
            .session
            .try_lock()
            .is_ok_and(|session| session.kernel.is_some())
        {
            return Ok(context);
        }
        self.started(context).await
    }

    /// The first context of the sandbox. Its kernel is there, and has done once what every sandbox has it do.
    pub(crate) async fn first(&self, language: &str) -> Result<(), ContextError> {
        let context = self.default_of(language).await?;
        let mut session = context.session.lock().await;
        if let Some(kernel) = &mut session.kernel {
            run::rehearse(kernel, language).await;
        }
        Ok(())
    }

    /// The same without a kernel, which comes when it is needed.
    pub(crate) fn declare(&self, language: &str) -> Result<Arc<Context>, ContextError> {
        let language = language::normalized(language);
        let is_meant =
            |entry: &&Entry| entry.is_default && entry.context.description.language == language;
        if let Some(found) = self.entries().iter().find(is_meant) {
            return Ok(Arc::clone(&found.context));
        }
        self.add(Context::new(language, self.home.clone()), true)
    }

    /// Whether a language's kernel is installed.
    pub(crate) fn has_kernel(&self, language: &str) -> bool {
        kernelspec::find(&self.starter.specs, &language::kernels(language)).is_ok()
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Context>, ContextError> {
        let entries = self.entries();
        let found = entries
            .iter()
            .find(|entry| entry.context.description.id == id);
        found
            .map(|entry| Arc::clone(&entry.context))
            .ok_or_else(|| ContextError::NotFound(id.to_owned()))
    }

    pub(crate) fn list(&self) -> Vec<Description> {
        let entries = self.entries();
        let descriptions = entries
            .iter()
            .map(|entry| entry.context.description.clone());
        descriptions.collect()
    }

    pub(crate) fn remove(&self, id: &str) -> Result<(), ContextError> {
        let context = self.find(id)?;
        self.entries()
            .retain(|entry| !Arc::ptr_eq(&entry.context, &context));
        context.remove();
        Ok(())
    }

    fn add(&self, context: Context, is_default: bool) -> Result<Arc<Context>, ContextError> {
        let mut entries = self.entries();
        if entries.len() >= CONTEXTS_MAX {
            return Err(ContextError::TooMany);
        }
        let context = Arc::new(context);
        entries.push(Entry {
            context: Arc::clone(&context),
            is_default,
        });
        Ok(context)
    }

    /// A context without a kernel is none: it is taken out again.
    async fn started(&self, context: Arc<Context>) -> Result<Arc<Context>, ContextError> {
        let mut session = context.session.lock().await;
        let outcome = context.ensure(&mut session, &self.starter).await;
        drop(session);
        match outcome {
            Ok(_) => Ok(context),
            Err(error) => {
                let Description { id, language, .. } = &context.description;
                // Somebody may have removed it meanwhile.
                drop(self.remove(id));
                Err(ContextError::Kernel(language.clone(), error))
            }
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
