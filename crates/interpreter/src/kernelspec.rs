//! Which kernels are installed: the directories that Jupyter reads, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where packages put the descriptions of their kernels, the preferred place first.
pub(crate) const DIRECTORIES: [&str; 4] = [
    "/root/.local/share/jupyter/kernels",
    "/home/user/.local/share/jupyter/kernels",
    "/usr/local/share/jupyter/kernels",
    "/usr/share/jupyter/kernels",
];

/// How a kernel is started, as in its `kernel.json`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct KernelSpec {
    /// Program and arguments; `{connection_file}` stands for the file that says where to listen.
    pub(crate) argv: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) interrupt_mode: InterruptMode,
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

/// How a kernel is told to stop what it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InterruptMode {
    #[default]
    Signal,
    Message,
}

/// What others may have added to a description.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Metadata {
    pub(crate) soulbox: Option<Zygote>,
}

/// A kernel that a process forks which stands ready.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Zygote {
    /// Program and arguments of that process. Kernels with the same ones share it.
    pub(crate) zygote: Vec<String>,
    /// What is to become of its child.
    pub(crate) kernel: String,
}

/// Why there is no kernel for a language.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error(
        "no kernel for '{language}' is installed in this template; there are: {installed}. \
         FIX: install a Jupyter kernel, so that {place}/{language}/kernel.json is there"
    )]
    Missing {
        language: String,
        installed: String,
        place: String,
    },
    #[error("{path} cannot be used: {reason}")]
    Broken { path: String, reason: String },
}

/// The description of a language's kernel.
pub(crate) fn find(directories: &[PathBuf], names: &[&str]) -> Result<KernelSpec, SpecError> {
    for name in names.iter().filter(|name| is_name(name)) {
        for directory in directories {
            let path = directory.join(name).join("kernel.json");
            match std::fs::read(&path) {
                Ok(bytes) => return read(&path, &bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(broken(&path, &error)),
            }
        }
    }
    Err(SpecError::Missing {
        language: names.first().copied().unwrap_or_default().to_owned(),
        installed: installed(directories).join(", "),
        place: directories
            .last()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    })
}

fn read(path: &Path, bytes: &[u8]) -> Result<KernelSpec, SpecError> {
    let spec: KernelSpec = serde_json::from_slice(bytes).map_err(|e| broken(path, &e))?;
    if spec.argv.is_empty() {
        return Err(broken(path, &"it names no program"));
    }
    Ok(spec)
}

fn broken(path: &Path, reason: &impl ToString) -> SpecError {
    SpecError::Broken {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

/// Kernels' directories have such names; everything else could lead elsewhere.
fn is_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_letter)
}

fn installed(directories: &[PathBuf]) -> Vec<String> {
    let entries = directories
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("kernel.json").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_that_is_installed() {
        let root = tempfile::tempdir().unwrap();
        let directories = [root.path().join("a"), root.path().join("b")];
        for (place, text) in [
            (
                "b/python3",
                r#"{"argv": ["p"], "metadata": {"soulbox": {"zygote": ["z"], "kernel": "k"}}}"#,
            ),
            (
                "b/deno",
                r#"{"argv": ["d"], "interrupt_mode": "message", "metadata": {"debugger": true}}"#,
            ),
            ("a/bad", r#"{"argv": []}"#),
        ] {
            std::fs::create_dir_all(root.path().join(place)).unwrap();
            std::fs::write(root.path().join(place).join("kernel.json"), text).unwrap();
        }
        let found = find(&directories, &["python", "python3"]).unwrap();
        assert_eq!(found.metadata.soulbox.unwrap().kernel, "k");
        let found = find(&directories, &["deno"]).unwrap();
        assert_eq!(found.interrupt_mode, InterruptMode::Message);
        assert!(matches!(
            find(&directories, &["bad"]),
            Err(SpecError::Broken { .. })
        ));
        let missing = find(&directories, &["../b/deno"]).unwrap_err().to_string();
        assert!(
            missing.contains("there are: bad, deno, python3. FIX:"),
            "{missing}"
        );
    }
}
