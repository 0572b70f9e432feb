//! What waits for a client: its events, and in the end the failure that stopped them.

use std::collections::VecDeque;
use std::path::Path;

use soulbox_envd_proto::filesystem::{EventType, FilesystemEvent};

use super::WatchError;
use crate::filesystem::entry::entry;
use crate::path::join;
use crate::user::Names;

/// Events that wait for a client; beyond that it has lost track anyway.
const EVENTS_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Queue {
    root: String,
    /// Whether events carry a description of the file.
    described: bool,
    events: VecDeque<FilesystemEvent>,
    failure: Option<WatchError>,
    /// Loaded when first needed, and forgotten when the kernel has no more events.
    names: Option<Names>,
}

impl Queue {
    pub(super) fn new(root: String, described: bool) -> Self {
        Self {
            root,
            described,
            ..Self::default()
        }
    }

    /// The next event; the failure, again and again; `None` when nothing has happened.
    pub(super) fn next(&mut self) -> Option<Result<FilesystemEvent, WatchError>> {
        match self.events.pop_front() {
            Some(event) => Some(Ok(event)),
            None => self.failure.clone().map(Err),
        }
    }

    pub(super) fn emit(&mut self, kind: EventType, path: &Path) {
        if self.events.len() >= EVENTS_MAX {
            return self.fail(WatchError::Overflow);
        }
        let lasting = matches!(
            kind,
            EventType::EVENT_TYPE_CREATE
                | EventType::EVENT_TYPE_WRITE
                | EventType::EVENT_TYPE_CHMOD
        );
        let info = if self.described && lasting {
            let full = join(&self.root, &path.to_string_lossy());
            let full = full.strip_suffix("/.").unwrap_or(&full);
            entry(full, self.names.get_or_insert_with(Names::load)).ok()
        } else {
            None
        };
        self.events.push_back(FilesystemEvent {
            name: path.to_string_lossy().into_owned(),
            r#type: kind.into(),
            entry: info.into(),
            ..FilesystemEvent::default()
        });
    }

    /// Accounts may change between two batches of events, hardly within one.
    pub(super) fn forget_names(&mut self) {
        self.names = None;
    }

    pub(super) fn fail(&mut self, failure: WatchError) {
        self.failure.get_or_insert(failure);
    }

    pub(super) fn failure(&self) -> Option<&WatchError> {
        self.failure.as_ref()
    }
}
