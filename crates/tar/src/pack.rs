//! Makes an archive of a part of the sandbox's files, for another sandbox of the same build.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::apply::UnpackError;

const BUFFER: usize = 256 * 1024;

/// Packs what is at a path, with names as seen from the root. Other file systems, device nodes and sockets are left out.
pub(crate) fn pack(archive: &Path, path: &Path) -> Result<String, UnpackError> {
    let file = File::create_new(archive).map_err(UnpackError::read)?;
    let mut packer = Packer {
        builder: Builder::new(BufWriter::with_capacity(BUFFER, file)),
        asked: path.to_owned(),
        real: path.to_owned(),
        device: fs::metadata("/").map_err(UnpackError::read)?.dev(),
        own: archive.to_owned(),
        links: HashMap::new(),
        entries: 0,
    };
    // What a link leads to is meant by the name of the link.
    match fs::canonicalize(path) {
        Ok(real) => {
            packer.real.clone_from(&real);
            packer.tree(&real)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(path)(error)),
    }
    let entries = packer.entries;
    let written = packer
        .builder
        .into_inner()
        .and_then(|mut writer| writer.flush());
    written.map_err(at(archive))?;
    Ok(format!("entries={entries}"))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.display().to_string();
    move |source| UnpackError::Write { path, source }
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// The path that was asked for, and where that really is.
    asked: PathBuf,
    real: PathBuf,
    device: u64,
    /// The archive itself.
    own: PathBuf,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    entries: u64,
}

impl<W: Write> Packer<W> {
    /// Packs a tree, its directories before what is in them.
    fn tree(&mut self, top: &Path) -> Result<(), UnpackError> {
        let mut waiting = vec![top.to_owned()];
        while let Some(path) = waiting.pop() {
            let facts = fs::symlink_metadata(&path).map_err(at(&path))?;
            // Only directories tell: files of an overlay have the device of where they really lie.
            if facts.is_dir() && facts.dev() != self.device || path == self.own {
                continue;
            }
            self.entry(&path, &facts).map_err(at(&path))?;
            if facts.is_dir() {
                let names: io::Result<Vec<PathBuf>> = fs::read_dir(&path)
                    .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
                let mut names = names.map_err(at(&path))?;
                names.sort_unstable_by(|a, b| b.cmp(a));
                waiting.extend(names);
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, facts: &Metadata) -> io::Result<()> {
        let rest = path.strip_prefix(&self.real).unwrap_or(path);
        let name = match rest.as_os_str().is_empty() {
            true => self.asked.clone(),
            false => self.asked.join(rest),
        };
        let name = name.strip_prefix("/").unwrap_or(&name);
        let kind = facts.file_type();
        if name.as_os_str().is_empty()
            || kind.is_socket()
            || kind.is_block_device()
            || kind.is_char_device()
        {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_metadata(facts);
        header.set_size(0);
        self.entries += 1;
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self
                .builder
                .append_link(&mut header, name, fs::read_link(path)?);
        }
        if kind.is_file() && facts.nlink() > 1 {
            if let Some(first) = self.links.get(&(facts.dev(), facts.ino())) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, name, first);
            }
            self.links
                .insert((facts.dev(), facts.ino()), name.to_owned());
        }
        if kind.is_file() {
            header.set_size(facts.len());
            return self
                .builder
                .append_data(&mut header, name, File::open(path)?);
        }
        self.builder.append_data(&mut header, name, io::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("d")).unwrap();
        fs::write(top.join("d/f"), "text").unwrap();
        fs::hard_link(top.join("d/f"), top.join("again")).unwrap();
        std::os::unix::fs::symlink("d", top.join("link")).unwrap();
        let archive = dir.path().join("archive");
        pack(&archive, &top).unwrap();
        let mut read = tar::Archive::new(File::open(&archive).unwrap());
        let prefix = top.strip_prefix("/").unwrap().to_owned();
        let found: Vec<(String, EntryType)> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry
                    .path()
                    .unwrap()
                    .strip_prefix(&prefix)
                    .unwrap()
                    .display()
                    .to_string();
                (path, entry.header().entry_type())
            })
            .collect();
        let expected = [
            ("", EntryType::Directory),
            ("again", EntryType::Regular),
            ("d", EntryType::Directory),
            ("d/f", EntryType::Link),
            ("link", EntryType::Symlink),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
        let none = dir.path().join("none");
        pack(&none, &dir.path().join("missing")).unwrap();
        assert!(
            tar::Archive::new(File::open(&none).unwrap())
                .entries()
                .unwrap()
                .next()
                .is_none()
        );
    }
}
