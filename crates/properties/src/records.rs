//! Files that the server believes after a restart: records of sandboxes, manifests of templates.

use serde_json::Value;
use soulbox_driver_linux::fuzzing::{open_record, seal_record};

use crate::taken::manifest::{TemplateManifest, is_valid_name, open, seal};

const KEY: &str = "template";

/// Input: two bytes of a place, one of bits, then a file or a manifest before it is sealed.
pub(crate) fn manifest(data: &[u8]) {
    let Some((flip, bytes)) = data.split_at_checked(3) else {
        return;
    };
    let read = |bytes: &[u8]| open::<TemplateManifest>(KEY, bytes);
    let written = |manifest: &TemplateManifest| seal(KEY, manifest);
    if let Ok(manifest) = read(bytes) {
        assert_eq!(read(&written(&manifest)), Ok(manifest));
    }
    if let Ok(manifest) = serde_json::from_slice::<TemplateManifest>(bytes) {
        let sealed = written(&manifest);
        assert_eq!(read(&sealed).as_ref(), Ok(&manifest));
        let damaged = flipped(&sealed, flip);
        if let Ok(other) = read(&damaged) {
            assert_eq!(other, manifest, "believed, and says something else");
        }
    }
    if let Ok(name) = std::str::from_utf8(bytes)
        && is_valid_name(name)
    {
        assert!(!name.contains(['/', '.', '\0']), "it becomes a file name");
    }
}

/// Input: two bytes of a place, one of bits, then a file or a record before it is sealed.
pub(crate) fn state(data: &[u8]) {
    let Some((flip, bytes)) = data.split_at_checked(3) else {
        return;
    };
    for record in [
        open_record(bytes),
        seal_record(bytes).and_then(|sealed| open_record(&sealed)),
    ]
    .into_iter()
    .flatten()
    {
        let sealed = seal_record(&record).expect("it was a record");
        assert_eq!(
            open_record(&sealed).as_ref(),
            Some(&record),
            "it comes back"
        );
        if let Some(other) = open_record(&flipped(&sealed, flip)) {
            let value = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("it is JSON");
            assert_eq!(
                value(&other),
                value(&record),
                "believed, and says something else"
            );
        }
    }
}

/// The file with one byte changed, or cut off where nothing would change.
fn flipped(file: &[u8], flip: &[u8]) -> Vec<u8> {
    let at = usize::from(u16::from_be_bytes([flip[0], flip[1]])) % file.len().max(1);
    if flip[2] == 0 {
        return file[..at].to_vec();
    }
    let mut changed = file.to_vec();
    changed[at] ^= flip[2];
    changed
}
