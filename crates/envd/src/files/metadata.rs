//! Users' metadata of files: `X-Metadata-*` headers, kept as `user.e2b.*` attributes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use http::{HeaderMap, StatusCode};
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::Errno;

use crate::reply::Refusal;

const HEADER_PREFIX: &str = "x-metadata-";
const ATTRIBUTE_PREFIX: &str = "user.e2b.";
/// 255 of the kernel, less the prefix.
const KEY_MAX_BYTES: usize = 246;
const TOTAL_MAX_BYTES: usize = 4096;
/// The kernel's limits for all names of a file, and for one value.
const LIST_MAX_BYTES: usize = 64 * 1024;
const VALUE_MAX_BYTES: usize = 64 * 1024;

/// What a request wants its files to bear.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Refusal> {
    let invalid = |reason: String| Refusal::bad_request(format!("invalid metadata: {reason}"));
    let mut all = BTreeMap::new();
    let mut total = 0_usize;
    for name in headers.keys() {
        let Some(key) = name
            .as_str()
            .strip_prefix(HEADER_PREFIX)
            .filter(|key| !key.is_empty())
        else {
            continue;
        };
        let value = headers
            .get(name)
            .map(http::HeaderValue::as_bytes)
            .unwrap_or_default();
        let printable = |bytes: &[u8]| bytes.iter().all(|b| (0x20..=0x7E).contains(b));
        if key.len() > KEY_MAX_BYTES {
            return Err(invalid(format!("key is longer than {KEY_MAX_BYTES} bytes")));
        }
        if !printable(key.as_bytes()) || !printable(value) {
            return Err(invalid(format!(
                "key {key:?} or its value is not printable ASCII"
            )));
        }
        total = total.saturating_add(ATTRIBUTE_PREFIX.len() + key.len() + value.len());
        all.insert(key.to_owned(), String::from_utf8_lossy(value).into_owned());
    }
    if total > TOTAL_MAX_BYTES {
        return Err(invalid(format!(
            "keys and values together are longer than {TOTAL_MAX_BYTES} bytes"
        )));
    }
    Ok(all)
}

/// Makes a file bear exactly these. Touches nothing when nothing changes: every change is an event for watchers.
pub(crate) fn replace(file: &File, wanted: &BTreeMap<String, String>) -> Result<(), Refusal> {
    match try_replace(file, wanted) {
        // A file system without attributes keeps the content only.
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(error @ (Errno::NOSPC | Errno::DQUOT)) => Err(Refusal::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!("not enough disk space available for metadata: {error}"),
        )),
        Err(error) => Err(Refusal::internal(format!(
            "error writing metadata: {error}"
        ))),
    }
}

fn try_replace(file: &File, wanted: &BTreeMap<String, String>) -> rustix::io::Result<()> {
    let present = names(|buffer| flistxattr(file, buffer))?;
    for key in present.iter().filter(|key| !wanted.contains_key(*key)) {
        fremovexattr(file, attribute(key))?;
    }
    for (key, value) in wanted {
        let name = attribute(key);
        let mut old = vec![0_u8; value.len()];
        let unchanged = present.contains(key)
            && fgetxattr(file, &*name, old.as_mut_slice()).is_ok_and(|n| n == value.len())
            && old == value.as_bytes();
        if !unchanged {
            fsetxattr(file, &*name, value.as_bytes(), XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// What a file bears now, through links; values that are no text are left out.
pub(crate) fn read(path: &str) -> io::Result<BTreeMap<String, String>> {
    let keys = names(|buffer| listxattr(path, buffer))?;
    let mut all = BTreeMap::new();
    for key in keys {
        let mut value = Vec::with_capacity(VALUE_MAX_BYTES.min(1024));
        let name = attribute(&key);
        let read = match getxattr(path, &*name, rustix::buffer::spare_capacity(&mut value)) {
            Err(Errno::RANGE) => {
                value.reserve(VALUE_MAX_BYTES);
                getxattr(path, &*name, rustix::buffer::spare_capacity(&mut value))
            }
            other => other,
        };
        if let (Ok(_), Ok(text)) = (read, String::from_utf8(value)) {
            all.insert(key, text);
        }
    }
    Ok(all)
}

fn attribute(key: &str) -> String {
    format!("{ATTRIBUTE_PREFIX}{key}")
}

/// Our keys among all attribute names of a file.
fn names(list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<String>> {
    let mut buffer = vec![0_u8; 256];
    let length = match list(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LIST_MAX_BYTES, 0);
            list(&mut buffer)?
        }
        other => other?,
    };
    let all = buffer.get(..length).unwrap_or_default();
    let ours = all
        .split(|byte| *byte == 0)
        .filter_map(|name| name.strip_prefix(ATTRIBUTE_PREFIX.as_bytes()));
    Ok(ours
        .filter_map(|key| std::str::from_utf8(key).ok().map(str::to_owned))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        map
    }

    #[test]
    fn headers_become_keys() {
        let all = wanted(&headers(&[
            ("X-Metadata-Kind", "a b"),
            ("x-metadata-kind", "second"),
            ("x-metadata-", "empty"),
            ("other", "x"),
        ]));
        assert_eq!(
            all.unwrap(),
            BTreeMap::from([("kind".to_owned(), "a b".to_owned())])
        );
        assert!(
            wanted(&headers(&[("x-metadata-a", "é")]))
                .unwrap_err()
                .message
                .starts_with("invalid metadata: ")
        );
        let long = "k".repeat(247);
        assert!(wanted(&headers(&[(&format!("x-metadata-{long}"), "v")])).is_err());
        assert!(wanted(&headers(&[("x-metadata-a", &"v".repeat(4087))])).is_err());
        assert!(wanted(&headers(&[("x-metadata-a", &"v".repeat(4086))])).is_ok());
    }

    #[test]
    fn a_set_replaces_the_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let set = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        replace(file.as_file(), &set(&[("a", "1"), ("b", "2")])).unwrap();
        if read(path).unwrap().is_empty() {
            println!("SKIPPED: no attributes on this file system");
            return;
        }
        replace(file.as_file(), &set(&[("b", "3"), ("c", "")])).unwrap();
        assert_eq!(read(path).unwrap(), set(&[("b", "3"), ("c", "")]));
        replace(file.as_file(), &BTreeMap::new()).unwrap();
        assert!(read(path).unwrap().is_empty());
    }
}
