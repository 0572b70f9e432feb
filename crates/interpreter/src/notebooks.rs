//! Notebooks that are open: a file, and the context that its cells run in.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use crate::context::Context;
use crate::contexts::{ContextError, World};
use crate::item;
use crate::notebook::{NewCell, Notebook, NotebookError, Outputs};
use crate::run::{self, End, Execution, Lines};

/// A file larger than this is none that somebody works with.
const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// Which notebooks are open, and their contexts.
#[derive(Default)]
pub(crate) struct Notebooks {
    open: std::sync::Mutex<HashMap<PathBuf, Arc<Context>>>,
    /// Files are read, changed and written by one at a time.
    files: Arc<tokio::sync::Mutex<()>>,
}

/// Why a notebook cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{0} cannot be used as a notebook: {1}")]
    File(PathBuf, #[source] io::Error),
    #[error("{0} cannot be used as a notebook: {1}")]
    Notebook(PathBuf, #[source] NotebookError),
    #[error(transparent)]
    Context(#[from] ContextError),
}

/// A run that can begin.
pub(crate) struct Prepared {
    path: PathBuf,
    context: Arc<Context>,
    cells: Vec<usize>,
}

impl World {
    /// Opens a notebook, made when there is none, with the cells that the caller wants. The answer is what is in it.
    pub(crate) async fn open_notebook(
        &self,
        path: &Path,
        language: &str,
        cells: Option<&[NewCell]>,
    ) -> Result<Value, OpenError> {
        let path = self.path_of(path);
        let mut notebook = self.read(&path, Some(language))?;
        let files = self.own_files().await;
        if let Some(cells) = cells {
            notebook.set_cells(cells);
        }
        if cells.is_some() || !path.exists() {
            write(&path, &notebook)?;
        }
        drop(files);
        let context = self.context_for(&path, &notebook).await?;
        Ok(json!({
            "path": path, "context_id": context.description.id, "language": context.description.language,
            "notebook": notebook.value(),
        }))
    }

    /// Closes it: its context goes, the file stays. Says whether it was open.
    pub(crate) fn close_notebook(&self, path: &Path) -> bool {
        let open = self.open().remove(&self.path_of(path));
        // Its context may have been removed by itself.
        open.is_some_and(|context| self.remove(&context.description.id).is_ok())
    }

    /// Looks whether a notebook, or one cell of it, can be run.
    pub(crate) async fn prepare_notebook(
        &self,
        path: &Path,
        only: Option<usize>,
    ) -> Result<Prepared, OpenError> {
        let path = self.path_of(path);
        let notebook = self.read(&path, None)?;
        let cells = notebook.to_run(only);
        let cells = cells.map_err(|error| OpenError::Notebook(path.clone(), error))?;
        let context = self.context_for(&path, &notebook).await?;
        Ok(Prepared {
            path,
            context,
            cells,
        })
    }

    /// Runs cells one after the other until one fails. What each brings is in the file before the next begins.
    pub(crate) async fn run_notebook(
        self: Arc<Self>,
        prepared: Prepared,
        token: Option<String>,
        lines: Lines,
    ) {
        let mut session = tokio::select! {
            session = prepared.context.session.lock() => session,
            () = lines.closed() => return,
        };
        for index in &prepared.cells {
            let code = match self.read(&prepared.path, None) {
                Ok(notebook) => notebook.code(*index),
                Err(error) => return end(&lines, Some(&error)).await,
            };
            run::say(&lines, item::line(&json!({"type": "cell", "index": index}))).await;
            let execution = Execution {
                code,
                variables: std::collections::BTreeMap::new(),
                token: token.clone(),
            };
            let mut outputs = Outputs::default();
            let context = &prepared.context;
            let how = run::prepared(
                &self,
                context,
                &mut session,
                &execution,
                (&lines, &mut outputs),
            )
            .await;
            if let End::Died(how) = &how {
                session.kernel = None;
                outputs.fail(&run::RESTARTED.into(), &how.as_str().into(), &json!([]));
                run::say(&lines, item::line(&run::restarted(how))).await;
            }
            let has_failed = outputs.has_failed;
            if let Err(error) = self
                .keep(&prepared.path, *index, &execution.code, outputs)
                .await
            {
                return end(&lines, Some(&error)).await;
            }
            if has_failed || how != End::Done {
                break;
            }
        }
        end(&lines, None).await;
    }

    /// Puts outputs into the file as it is now: somebody may have saved other cells meanwhile.
    async fn keep(
        &self,
        path: &Path,
        index: usize,
        code: &str,
        outputs: Outputs,
    ) -> Result<(), OpenError> {
        let _files = self.own_files().await;
        let mut notebook = self.read(path, None)?;
        notebook.put(index, code, outputs);
        write(path, &notebook)
    }

    async fn context_for(
        &self,
        path: &Path,
        notebook: &Notebook,
    ) -> Result<Arc<Context>, OpenError> {
        let open = self.open().get(path).cloned();
        if let Some(context) = open.filter(|context| !context.is_removed()) {
            return Ok(context);
        }
        let directory = path.parent().map(Path::to_owned);
        let context = self.create(&notebook.language(), directory).await?;
        let other = self.open().insert(path.to_owned(), Arc::clone(&context));
        if let Some(other) = other {
            // Somebody has opened it at the same moment; or its context was removed, and there is nothing to remove.
            drop(self.remove(&other.description.id));
        }
        Ok(context)
    }

    /// A relative path begins where contexts do.
    fn path_of(&self, path: &Path) -> PathBuf {
        self.home.join(path)
    }

    /// What is in the file; a new one when there is none and a language is given for it.
    fn read(&self, path: &Path, new: Option<&str>) -> Result<Notebook, OpenError> {
        let file = |error| OpenError::File(path.to_owned(), error);
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let language = new.ok_or_else(|| file(error))?;
                return Ok(Notebook::new(&crate::language::normalized(language)));
            }
            Ok(found) if found.len() > MOST_BYTES => {
                return Err(file(io::ErrorKind::FileTooLarge.into()));
            }
            Ok(_) | Err(_) => {}
        }
        let bytes = std::fs::read(path).map_err(file)?;
        Notebook::parse(&bytes).map_err(|error| OpenError::Notebook(path.to_owned(), error))
    }

    async fn own_files(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.notebooks.files).lock_owned().await
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Arc<Context>>> {
        let open = self.notebooks.open.lock();
        open.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last line, and why it is the last.
async fn end(lines: &Lines, error: Option<&OpenError>) {
    if let Some(error) = error {
        let error = item::error("NotebookError", &error.to_string(), "");
        run::say(lines, item::line(&error)).await;
    }
    run::say(lines, item::END).await;
}

/// Writes it beside the old one, which it then replaces: whoever reads finds the one or the other. It belongs to whom
/// the old one belonged to, else to the owner of the directory.
fn write(path: &Path, notebook: &Notebook) -> Result<(), OpenError> {
    let failed = |error| OpenError::File(path.to_owned(), error);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let owner = std::fs::metadata(path).or_else(|_| std::fs::metadata(directory));
    let owner = owner.map_err(failed)?;
    let name = format!(".{}.ipynb", uuid::Uuid::new_v4().simple());
    let beside = directory.join(name);
    let written = std::fs::File::create_new(&beside).and_then(|mut file| {
        file.write_all(notebook.text().as_bytes())?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        std::fs::rename(&beside, path)
    });
    written.map_err(|error| {
        // It may not even have come to be.
        drop(std::fs::remove_file(&beside));
        failed(error)
    })
}
