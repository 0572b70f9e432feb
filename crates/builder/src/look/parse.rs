//! Reads what the scripts of a look print. It comes out of a sandbox, so what is malformed is left out.

use std::collections::BTreeMap;

use crate::difference::{Ecosystem, FileFacts, FileKind};

/// More files than this are no template's.
const MOST_FILES: usize = 2_000_000;

/// Records of three texts: kind, mode, owner, group and size; path; where a link leads.
pub(crate) fn files(printed: &[u8]) -> BTreeMap<String, FileFacts> {
    let texts: Vec<&[u8]> = printed.split(|byte| *byte == 0).collect();
    let (records, _) = texts.as_chunks::<3>();
    let files = records.iter().take(MOST_FILES).filter_map(file);
    files.collect()
}

fn file([facts, path, target]: &[&[u8]; 3]) -> Option<(String, FileFacts)> {
    let facts = std::str::from_utf8(facts).ok()?;
    let mut words = facts.split(' ');
    let kind = match words.next()? {
        "f" => FileKind::File,
        "d" => FileKind::Directory,
        "l" => FileKind::Link,
        _ => FileKind::Other,
    };
    let mode = u32::from_str_radix(words.next()?, 8).ok()?;
    let (uid, gid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let size_bytes: u64 = words.next()?.parse().ok()?;
    let facts = FileFacts {
        kind,
        size_bytes: if kind == FileKind::File {
            size_bytes
        } else {
            0
        },
        mode,
        uid,
        gid,
        target: (kind == FileKind::Link).then(|| String::from_utf8_lossy(target).into_owned()),
        sha256: None,
    };
    Some((String::from_utf8_lossy(path).into_owned(), facts))
}

/// Adds hashes to files: records of 64 hexadecimal digits, two more characters, and the path.
pub(crate) fn hashes(printed: &[u8], files: &mut BTreeMap<String, FileFacts>) {
    for record in printed.split(|byte| *byte == 0) {
        let Some((hash, path)) = record.split_at_checked(64) else {
            continue;
        };
        let Some(facts) = path
            .get(2..)
            .and_then(|path| files.get_mut(String::from_utf8_lossy(path).as_ref()))
        else {
            continue;
        };
        let bytes = data_encoding::HEXLOWER.decode(hash).ok();
        facts.sha256 = bytes.and_then(|bytes| bytes.try_into().ok());
    }
}

/// Lines of ecosystem and what its program says.
pub(crate) fn packages(printed: &str) -> BTreeMap<(Ecosystem, String), String> {
    printed.lines().filter_map(package).collect()
}

fn package(line: &str) -> Option<((Ecosystem, String), String)> {
    let (ecosystem, rest) = line.split_once('\t')?;
    let mut words = rest.split('\t');
    let (ecosystem, name, version) = match ecosystem {
        "debian" if words.next()? == "installed" => {
            (Ecosystem::Debian, words.next()?, words.next()?)
        }
        "python" => (Ecosystem::Python, words.next()?, words.next()?),
        // `path:name@version:…`, where a name may begin with another `@`.
        "npm" => {
            let (name, version) = rest.split(':').nth(1)?.rsplit_once('@')?;
            (Ecosystem::Npm, name, version)
        }
        _ => return None,
    };
    let whole = !name.is_empty() && !version.is_empty();
    whole.then(|| ((ecosystem, name.to_owned()), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_three_kinds() {
        let printed = "debian\tinstalled\tcurl\t8.1-2\ndebian\tconfig-files\told\t1\npython\tnumpy\t2.1\npython\tNone\t\n\
            npm\t/usr/lib:lib@:undefined\nnpm\t/usr/lib/node_modules/@x/y:@x/y@1.2.3:undefined\nnpm\t/x:npm@9.2.0\nnoise\nodd\tx\ty\n";
        let found: Vec<_> = packages(printed).into_iter().collect();
        let want = [
            (Ecosystem::Debian, "curl", "8.1-2"),
            (Ecosystem::Python, "numpy", "2.1"),
            (Ecosystem::Npm, "@x/y", "1.2.3"),
            (Ecosystem::Npm, "npm", "9.2.0"),
        ];
        let want = want
            .map(|(ecosystem, name, version)| ((ecosystem, name.to_owned()), version.to_owned()));
        assert_eq!(found, want);
    }

    #[test]
    fn what_is_cut_off_or_nonsense_is_left_out() {
        let mut found = files(b"f 644 0 0 3\0/a\0\0x y\0/b\0\0f 644 0 0");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["/a"]);
        hashes(b"short\0zz", &mut found);
        hashes(&[b'g'; 70], &mut found);
        assert_eq!(found["/a"].sha256, None);
    }
}
