//! COPY and ADD: which files are meant, where they come from, and under which key their arrival is kept.

use std::collections::HashMap;
use std::sync::Arc;

use soulbox_dockerfile::{Base, Copy, Planned, Source};

use super::scope::Built;
use super::words::Words;
use crate::failure::Failure;
use crate::files::Files;
use crate::key::Key;
use crate::operation::Operation;
use crate::place::{Origin, Piece, Placement, Target, wanted};
use crate::state::State;

/// Where files can be copied from.
pub(super) struct Sources {
    /// The uploaded context.
    pub(super) context: Option<Arc<Files>>,
    /// Stages that are built, by their number in the file.
    pub(super) stages: HashMap<usize, Built>,
    /// Images, as `--from` names them.
    pub(super) images: HashMap<String, State>,
}

impl Sources {
    /// What a COPY does, or an ADD: that unpacks.
    pub(super) fn copy(
        &self,
        state: &State,
        planned: &Planned,
        copy: &Copy,
        unpacks: bool,
        words: &Words<'_>,
    ) -> Result<(Key, Operation<'_>), Failure> {
        let copy = expanded(copy, words)?;
        let origin = self.origin(planned, &copy, words.step)?;
        let placement = placement(state, &copy, origin, unpacks)
            .map_err(|why| Failure::new(words.step, why))?;
        let known = content(&placement, words)?;
        let Placement {
            target,
            owner,
            mode,
            ..
        } = &placement;
        let key = state.key.and(&[
            if unpacks { "ADD" } else { "COPY" },
            &known,
            &format!("{target:?} {owner:?} {mode:?}"),
        ]);
        Ok((key, Operation::Place(placement)))
    }

    fn origin(&self, planned: &Planned, copy: &Copy, step: &str) -> Result<Origin<'_>, Failure> {
        let Some(from) = &copy.from else {
            let needs = copy
                .sources
                .iter()
                .any(|source| matches!(source, Source::Path(_)));
            if needs && self.context.is_none() {
                let text = "there is no context to copy from\nFIX: give the directory of the files: soulbox template build NAME DIRECTORY";
                return Err(Failure::new(step, text));
            }
            return Ok(Origin::Context(self.context.clone()));
        };
        let found = match planned.uses.get(from) {
            Some(Base::Stage(number)) => self.stages.get(number).map(|built| &built.state),
            _ => self.images.get(from),
        };
        found
            .map(Origin::Other)
            .ok_or_else(|| Failure::new(step, format!("there is no stage '{from}'")))
    }
}

/// What the files are known by: those of the context by what is in them, those of another stage by how it was made.
fn content(placement: &Placement<'_>, words: &Words<'_>) -> Result<String, Failure> {
    Ok(match &placement.origin {
        Origin::Context(files) => {
            let wanted = wanted(files.as_deref(), &placement.sources);
            let wanted = wanted.map_err(|error| words.bad(error))?;
            match files {
                Some(files) => files.key(&wanted),
                None => format!("{wanted:?}"),
            }
        }
        Origin::Other(other) => format!("{} {:?}", other.key.as_str(), placement.sources),
    })
}

/// The instruction with its variables replaced.
fn expanded(copy: &Copy, words: &Words<'_>) -> Result<Copy, Failure> {
    let value = |text: &String| words.value(text);
    let source = |source: &Source| {
        Ok(match source {
            Source::Path(path) => Source::Path(value(path)?),
            Source::Inline { name, text, expand } => Source::Inline {
                name: name.clone(),
                text: if *expand {
                    words.document(text)?
                } else {
                    text.clone()
                },
                expand: false,
            },
        })
    };
    Ok(Copy {
        from: copy.from.clone(),
        sources: copy.sources.iter().map(source).collect::<Result<_, _>>()?,
        target: value(&copy.target)?,
        owner: copy.owner.as_ref().map(value).transpose()?,
        mode: copy.mode.as_ref().map(value).transpose()?,
    })
}

/// The files on their way.
fn placement<'a>(
    state: &State,
    copy: &Copy,
    origin: Origin<'a>,
    unpacks: bool,
) -> Result<Placement<'a>, String> {
    let mode = match copy.mode.as_deref() {
        None => None,
        Some(text) => {
            let mode = u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777);
            Some(mode.ok_or_else(|| {
                format!("--chmod={text} is no octal mode\nFIX: write it like --chmod=0755")
            })?)
        }
    };
    let piece = |source: &Source| match source {
        Source::Path(path) => Piece::Path(path.clone()),
        Source::Inline { name, text, .. } => Piece::Inline {
            name: name.clone(),
            text: text.clone(),
        },
    };
    Ok(Placement {
        origin,
        sources: copy.sources.iter().map(piece).collect(),
        target: Target::of(&copy.target, state.workdir()),
        owner: copy.owner.clone(),
        mode,
        unpacks,
        context: state.context.clone(),
    })
}
