//! How a kernel comes to be: forked where a process stands ready for it, started otherwise.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{Mutex, watch};

use crate::backing;
use crate::kernel::{Connection, Kernel, KernelError, Process};
use crate::kernelspec::{self, KernelSpec};
use crate::language;
use crate::zygote::{Forked, Zygote};

/// Programs that load a virtual machine on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// Starts kernels.
#[derive(Debug)]
pub(crate) struct Starter {
    /// Where kernels are described.
    pub(crate) specs: Vec<PathBuf>,
    /// Where sockets and connection files are.
    pub(crate) run: PathBuf,
    /// Where memory lies that sandboxes of the same template share.
    backing: PathBuf,
    zygotes: Mutex<Vec<(Vec<String>, Arc<Zygote>)>>,
}

impl Starter {
    pub(crate) fn new(specs: Vec<PathBuf>, run: PathBuf, backing: PathBuf) -> Self {
        Self {
            specs,
            run,
            backing,
            zygotes: Mutex::default(),
        }
    }

    /// A kernel of a language that answers.
    pub(crate) async fn start(&self, language: &str, cwd: &Path) -> Result<Kernel, KernelError> {
        let spec = kernelspec::find(&self.specs, &language::kernels(language))?;
        if !cwd.is_dir() {
            let missing = std::io::Error::other(format!("{} is no directory", cwd.display()));
            return Err(KernelError::Io("cannot work there", missing));
        }
        let name = uuid::Uuid::new_v4().simple().to_string();
        match &spec.metadata.soulbox {
            Some(zygote) => {
                let connection = Connection::ipc(&self.run.join(&name));
                let forked = self
                    .zygote(&zygote.zygote)
                    .await?
                    .fork(&zygote.kernel, &connection.describe(), cwd)
                    .await?;
                let Forked { pid, ended } = forked;
                Kernel::connect(Process { pid, ended }, connection, spec.interrupt_mode).await
            }
            None => self.spawn(&spec, &name, cwd).await,
        }
    }

    /// The process that forks such kernels, made anew when it has ended.
    async fn zygote(&self, argv: &[String]) -> Result<Arc<Zygote>, KernelError> {
        let mut zygotes = self.zygotes.lock().await;
        zygotes.retain(|(_, zygote)| !zygote.is_over());
        if let Some((_, zygote)) = zygotes.iter().find(|(known, _)| known == argv) {
            return Ok(Arc::clone(zygote));
        }
        let zygote = Arc::new(Zygote::start(argv)?);
        // Before its first child, which shares what it has then.
        self.lay_on_file(zygote.loaded().await?, &format!("zygote-{}", zygotes.len()))
            .await;
        zygotes.push((argv.to_vec(), Arc::clone(&zygote)));
        Ok(zygote)
    }

    /// Puts the memory of a process on a file, so that all who go on from here share it. It saves memory and time,
    /// and nothing depends on it.
    #[expect(clippy::print_stderr, reason = "a start that is not whole is told")]
    async fn lay_on_file(&self, pid: i32, name: &str) {
        let file = self.backing.join(name);
        let laid = tokio::task::spawn_blocking(move || backing::lay(pid, &file)).await;
        match laid.map_err(std::io::Error::other).flatten() {
            Ok(_) => {}
            Err(error) => {
                eprintln!(
                    "soulbox-interpreter: the memory of process {pid} is not shared: {error}"
                );
            }
        }
    }

    async fn spawn(
        &self,
        spec: &KernelSpec,
        name: &str,
        cwd: &Path,
    ) -> Result<Kernel, KernelError> {
        let connection = Connection::tcp()?;
        let file = self.run.join(format!("{name}.json"));
        std::fs::write(&file, connection.describe().to_string())
            .map_err(|e| KernelError::Io("cannot write a connection file", e))?;
        let argv: Vec<String> = spec
            .argv
            .iter()
            .map(|part| part.replace("{connection_file}", &file.display().to_string()))
            .collect();
        let process = spawn(&argv, spec, cwd)?;
        let answers = async {
            while !connection.is_open().await {
                tokio::time::sleep(LOOK).await;
            }
        };
        let mut watched = process.clone();
        let listens = tokio::select! {
            () = answers => Ok(()),
            how = watched.ended() => Err(KernelError::Died(how)),
            () = tokio::time::sleep(PATIENCE) => Err(KernelError::Silent),
        };
        // It has read it, or never will.
        drop(std::fs::remove_file(&file));
        if let Err(error) = listens {
            process.kill();
            return Err(error);
        }
        Kernel::connect(process, connection, spec.interrupt_mode).await
    }
}

/// The process of a kernel, in a group of its own, and who tells when it ends.
fn spawn(argv: &[String], spec: &KernelSpec, cwd: &Path) -> Result<Process, KernelError> {
    let (program, arguments) = argv.split_first().ok_or(KernelError::NoProgram)?;
    let mut child = Command::new(program)
        .args(arguments)
        // What programs show of letters that are not ASCII depends on it.
        .env(
            "LANG",
            std::env::var_os("LANG").unwrap_or_else(|| "C.UTF-8".into()),
        )
        .envs(&spec.env)
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| KernelError::Start(program.clone(), e))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.ok_or_else(|| KernelError::Died("at once".into()))?;
    let (tell, ended) = watch::channel(None);
    tokio::spawn(async move {
        let how = child.wait().await;
        let how = how.map_or_else(|e| e.to_string(), |status| status.to_string());
        tell.send_replace(Some(how));
    });
    Ok(Process { pid, ended })
}
