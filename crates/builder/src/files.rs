//! Files that instructions of a Dockerfile copy: of the uploaded context, or of another stage.
//!
//! They lie in one archive on the server's disk, of which an index is kept. What an instruction copies is written to a new
//! archive, with the names and owners that it gets; only that goes into the sandbox.

use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use soulbox_dockerfile::{Entry, Selected};
use tar::{Archive, Builder, EntryType, Header};
use tempfile::NamedTempFile;

use crate::hash;

/// More entries than this has no context.
const MOST_ENTRIES: usize = 1_000_000;
const BUFFER: usize = 256 * 1024;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Something in the archive.
#[derive(Debug, Clone)]
struct Known {
    /// Without `./` and slashes at the ends.
    path: String,
    kind: EntryType,
    mode: u32,
    /// Where a link leads.
    link: Option<PathBuf>,
    /// Where the content lies.
    at: u64,
    size: u64,
    mtime: u64,
    owner: (u64, u64),
    /// Of the content.
    digest: String,
}

/// An archive and its index, sorted by path.
#[derive(Debug)]
pub(crate) struct Files {
    archive: NamedTempFile,
    known: Vec<Known>,
}

/// What copied files get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dress {
    /// User and group; those of the archive when absent.
    pub(crate) owner: Option<(u64, u64)>,
    /// Of files and directories; those of the archive when absent.
    pub(crate) mode: Option<u32>,
}

/// Files that are to be copied, and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// An entry with everything below it, named from itself on; of a directory only what is in it.
    Of(Selected),
    /// A text that the instruction itself brings.
    Inline { name: String, text: String },
}

impl Files {
    /// Reads an archive, which may be compressed with gzip, and keeps a copy that is not. Blocking.
    pub(crate) fn read(mut input: impl Read, directory: &Path) -> io::Result<Self> {
        let mut archive = NamedTempFile::new_in(directory)?;
        let mut head = [0; 2];
        let n = read_some(&mut input, &mut head)?;
        let input = io::Cursor::new(head[..n].to_vec()).chain(input);
        if head == GZIP {
            io::copy(&mut MultiGzDecoder::new(input), archive.as_file_mut())?;
        } else {
            io::copy(&mut { input }, archive.as_file_mut())?;
        }
        archive.as_file_mut().rewind()?;
        let mut known = index(archive.as_file_mut())?;
        known.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { archive, known })
    }

    /// For `select`.
    pub(crate) fn entries(&self) -> Vec<Entry<'_>> {
        let entries = self.known.iter().map(|known| Entry {
            path: &known.path,
            is_dir: known.kind.is_dir(),
        });
        entries.collect()
    }

    /// Everything that decides what is copied, for the cache. Times do not.
    pub(crate) fn key(&self, wanted: &[Wanted]) -> String {
        let mut hash = Sha256::new();
        for one in wanted {
            match one {
                Wanted::Inline { name, text } => {
                    hash.update(format!("{name}\0{}\0{text}", text.len()));
                }
                Wanted::Of(selected) => {
                    hash.update(format!("{}\0", selected.path));
                    for known in self.below(selected) {
                        let link = known.link.as_ref().map(|link| link.display().to_string());
                        hash.update(format!(
                            "{}\0{:?}\0{:o}\0{}\0{}\0",
                            known.path,
                            known.kind,
                            known.mode,
                            link.unwrap_or_default(),
                            known.digest
                        ));
                    }
                }
            }
        }
        hash::hex(hash)
    }

    fn below<'a>(&'a self, selected: &'a Selected) -> impl Iterator<Item = &'a Known> {
        self.known.iter().filter(move |known| {
            let rest = known.path.strip_prefix(selected.path.as_str());
            selected.path.is_empty()
                || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The content of a single regular file, if that is what is meant.
    pub(crate) fn single(
        &self,
        selected: &Selected,
    ) -> io::Result<Option<impl Read + Send + use<>>> {
        let known = self
            .known
            .iter()
            .find(|known| known.path == selected.path && known.kind.is_file());
        known.map(|known| self.content(known)).transpose()
    }

    fn content(&self, known: &Known) -> io::Result<io::Take<std::fs::File>> {
        let mut file = self.archive.reopen()?;
        file.seek(SeekFrom::Start(known.at))?;
        Ok(file.take(known.size))
    }

    /// Writes what is wanted as an archive. Blocking.
    /// With an entry for the directory that all of it goes to, or without.
    pub(crate) fn pack(
        &self,
        wanted: &[Wanted],
        dress: Dress,
        with_directory: bool,
        into: &Path,
    ) -> io::Result<NamedTempFile> {
        let archive = NamedTempFile::new_in(into)?;
        let mut builder = Builder::new(io::BufWriter::with_capacity(BUFFER, archive.reopen()?));
        if with_directory {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            header.set_mode(0o755);
            set_owner(&mut header, dress.owner.unwrap_or((0, 0)));
            builder.append_data(&mut header, "./", io::empty())?;
        }
        for one in wanted {
            match one {
                Wanted::Inline { name, text } => {
                    let mut header = Header::new_gnu();
                    header.set_size(text.len() as u64);
                    header.set_mode(dress.mode.unwrap_or(0o644));
                    set_owner(&mut header, dress.owner.unwrap_or((0, 0)));
                    builder.append_data(&mut header, name, text.as_bytes())?;
                }
                Wanted::Of(selected) => {
                    for known in self.below(selected) {
                        self.entry(&mut builder, selected, known, dress)?;
                    }
                }
            }
        }
        builder.into_inner()?.flush()?;
        Ok(archive)
    }

    fn entry(
        &self,
        builder: &mut Builder<impl Write>,
        selected: &Selected,
        known: &Known,
        dress: Dress,
    ) -> io::Result<()> {
        let name = renamed(selected, &known.path);
        // The directory itself is where its content goes.
        if name.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(known.kind);
        header.set_mtime(known.mtime);
        header.set_mode(
            dress
                .mode
                .filter(|_| !known.kind.is_symlink())
                .unwrap_or(known.mode),
        );
        set_owner(&mut header, dress.owner.unwrap_or(known.owner));
        header.set_size(0);
        match &known.link {
            Some(link) if known.kind.is_symlink() => builder.append_link(&mut header, name, link),
            Some(link) => self.linked(builder, header, (&name, link), selected),
            None if known.kind.is_file() => {
                header.set_size(known.size);
                builder.append_data(&mut header, name, self.content(known)?)
            }
            None => builder.append_data(&mut header, name, io::empty()),
        }
    }

    /// A second name: of what is copied, too, or else a copy of its own.
    fn linked(
        &self,
        builder: &mut Builder<impl Write>,
        mut header: Header,
        (name, link): (&str, &Path),
        selected: &Selected,
    ) -> io::Result<()> {
        let target = clean(&link.to_string_lossy());
        if selected.is_dir && self.below(selected).any(|known| known.path == target) {
            return builder.append_link(&mut header, name, renamed(selected, &target));
        }
        let known = self
            .known
            .iter()
            .find(|known| known.path == target && known.kind.is_file());
        let known = known
            .ok_or_else(|| io::Error::other(format!("{name} is a link to what is not there")))?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(known.size);
        builder.append_data(&mut header, name, self.content(known)?)
    }
}

/// The name that an entry below a source gets: of a directory what comes after it, of a file its own.
fn renamed(selected: &Selected, path: &str) -> String {
    if !selected.is_dir {
        let own = selected.path.rsplit('/').next();
        return own.unwrap_or_default().to_owned();
    }
    let rest = path.strip_prefix(selected.path.as_str()).unwrap_or(path);
    rest.trim_start_matches('/').to_owned()
}

fn set_owner(header: &mut Header, (user, group): (u64, u64)) {
    header.set_uid(user);
    header.set_gid(group);
}

fn index(file: &mut std::fs::File) -> io::Result<Vec<Known>> {
    let mut content = file.try_clone()?;
    let mut found = Vec::new();
    let mut archive = Archive::new(file);
    // Several archives, one after the other, are one.
    archive.set_ignore_zeros(true);
    let mut places = Vec::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if found.len() >= MOST_ENTRIES {
            return Err(io::Error::other(format!("more than {MOST_ENTRIES} files")));
        }
        let header = entry.header();
        let kind = header.entry_type();
        let path = clean(&entry.path()?.to_string_lossy());
        let is_known = kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link();
        if path.is_empty() || path.split('/').any(|part| part == "..") || !is_known {
            continue;
        }
        places.push((found.len(), entry.raw_file_position()));
        found.push(Known {
            path,
            kind,
            mode: header.mode()? & 0o7777,
            link: entry.link_name()?.map(std::borrow::Cow::into_owned),
            at: entry.raw_file_position(),
            size: entry.size(),
            mtime: header.mtime().unwrap_or(0),
            owner: (header.uid().unwrap_or(0), header.gid().unwrap_or(0)),
            digest: String::new(),
        });
    }
    // Afterwards: both descriptors share one position.
    for (number, at) in places {
        let known = &mut found[number];
        content.seek(SeekFrom::Start(at))?;
        known.digest = hash::of_all((&mut content).take(known.size))?;
    }
    Ok(found)
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match input.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

fn clean(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let mut add = |name: &str, kind: EntryType, text: &str| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_size(0);
            match kind {
                EntryType::Symlink | EntryType::Link => {
                    builder.append_link(&mut header, name, text)
                }
                _ => {
                    header.set_size(text.len() as u64);
                    builder.append_data(&mut header, name, text.as_bytes())
                }
            }
            .unwrap();
        };
        add("./a.txt", EntryType::Regular, "a");
        add("d/", EntryType::Directory, "");
        add("d/b", EntryType::Regular, "bb");
        add("d/again", EntryType::Link, "d/b");
        add("d/link", EntryType::Symlink, "../a.txt");
        add("dd", EntryType::Link, "d/b");
        builder.into_inner().unwrap()
    }

    fn selected(path: &str, is_dir: bool) -> Wanted {
        Wanted::Of(Selected {
            path: path.to_owned(),
            is_dir,
        })
    }

    fn packed(
        files: &Files,
        wanted: &[Wanted],
        dress: Dress,
    ) -> Vec<(String, EntryType, u32, u64, String)> {
        let dir = tempfile::tempdir().unwrap();
        let packed = files.pack(wanted, dress, false, dir.path()).unwrap();
        let mut archive = Archive::new(packed.reopen().unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let link = entry
                .link_name()
                .unwrap()
                .map(|link| link.display().to_string());
            let (kind, mode, uid) = {
                let header = entry.header();
                (
                    header.entry_type(),
                    header.mode().unwrap(),
                    header.uid().unwrap(),
                )
            };
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name, kind, mode, uid, link.unwrap_or(text))
        });
        entries.collect()
    }

    #[test]
    fn names_begin_where_the_source_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&archive()).unwrap();
        for bytes in [archive(), gzip.finish().unwrap()] {
            let files = Files::read(&bytes[..], dir.path()).unwrap();
            assert_eq!(files.entries().len(), 6);
            let dress = Dress {
                owner: Some((7, 8)),
                mode: None,
            };
            let found = packed(
                &files,
                &[selected("d", true), selected("a.txt", false)],
                dress,
            );
            let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
            assert_eq!(names, ["again", "b", "link", "a.txt"]);
            assert_eq!((found[0].1, found[0].4.as_str()), (EntryType::Link, "b"));
            assert_eq!(
                (found[1].2, found[1].3, found[1].4.as_str()),
                (0o640, 7, "bb")
            );
            assert_eq!(
                (found[2].1, found[2].4.as_str()),
                (EntryType::Symlink, "../a.txt")
            );
        }
    }

    #[test]
    fn a_link_to_what_is_not_copied_becomes_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::read(&archive()[..], dir.path()).unwrap();
        let dress = Dress {
            owner: None,
            mode: Some(0o755),
        };
        let found = packed(&files, &[selected("dd", false)], dress);
        assert_eq!(
            found,
            [(
                "dd".to_owned(),
                EntryType::Regular,
                0o755,
                0,
                "bb".to_owned()
            )]
        );
    }

    #[test]
    fn the_key_is_of_what_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::read(&archive()[..], dir.path()).unwrap();
        let key = |wanted: &[Wanted]| files.key(wanted);
        assert_eq!(key(&[selected("d", true)]), key(&[selected("d", true)]));
        assert_ne!(
            key(&[selected("d", true)]),
            key(&[selected("a.txt", false)])
        );
        let inline = |text: &str| Wanted::Inline {
            name: "x".to_owned(),
            text: text.to_owned(),
        };
        assert_ne!(key(&[inline("1")]), key(&[inline("2")]));
    }
}
