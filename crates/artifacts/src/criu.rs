//! Fetching CRIU: Debian's package and those that it needs, unpacked into a directory with a loader and libraries of their
//! own. Nothing of it is installed, and nothing of the host's is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::artifacts::Artifacts;
use crate::bootstrap::tool_command;
use crate::error::ArtifactError;
use crate::host::HostFacts;
use crate::progress::{Phase, Progress};
use crate::{durable, tool, tree};

/// The releases that have a version which works with the kernels of today, oldest first.
const RELEASES: [&str; 2] = ["forky", "sid"];
const DEADLINE: Duration = Duration::from_mins(20);
/// Where it is, below the data directory.
const NAME: &str = "criu";

impl Artifacts {
    /// Fetches CRIU into the data directory, in the place of what is there. Returns where it is.
    ///
    /// # Errors
    /// When the tool is missing, or no release can be had from the mirror.
    pub fn fetch_criu(
        &self,
        mirror: Option<&str>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf, ArtifactError> {
        let host = HostFacts::gather(self.data_dir())?;
        let mut last = ArtifactError::NoTool;
        for release in RELEASES {
            let work = self.data_dir().join("tmp").join(NAME);
            tree::remove(&work)?;
            fs::create_dir_all(&work).map_err(|e| ArtifactError::io("create", &work, e))?;
            let arguments = host.extract(mirror, release, NAME, &work)?;
            progress(Progress::line(
                Phase::Fetching,
                format!("{NAME} from Debian {release}"),
            ));
            match tool::run(command(&host, arguments), DEADLINE, &mut |_| {}) {
                Ok(()) => return self.place_criu(&work),
                Err(error) => last = error,
            }
            tree::remove(&work)?;
        }
        Err(last)
    }

    fn place_criu(&self, work: &Path) -> Result<PathBuf, ArtifactError> {
        let place = self.data_dir().join(NAME);
        durable::sync_file_system(work)?;
        tree::remove(&place)?;
        fs::rename(work, &place).map_err(|e| ArtifactError::io("rename", work, e))?;
        Ok(place)
    }
}

fn command(host: &HostFacts, arguments: Vec<String>) -> Command {
    let mut command = tool_command(host, true);
    command.args(arguments);
    command
}
