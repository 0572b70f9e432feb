//! USER: who runs what follows, and who sandboxes start as.

use crate::failure::Failure;
use crate::key::Key;
use crate::operation::Operation;
use crate::place::{Origin, Piece, Placement, Target, text};
use crate::state::State;
use crate::work::Work;

/// Another user. Programs are started as somebody who has a name: a number that has none in the image gets one.
pub(super) async fn user<'a>(
    work: &Work,
    state: &State,
    user: &str,
    step: &str,
) -> Result<(Key, Operation<'a>), Failure> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    if name.is_empty() {
        return Err(Failure::new(step, "USER needs a name or a number"));
    }
    let key = state.key.and(&["USER", user]);
    let mut context = state.context.clone();
    let Ok(number) = name.parse::<u32>() else {
        name.clone_into(&mut context.user);
        return Ok((key, Operation::Context(context)));
    };
    let stage = work.stage(state, step).await?;
    let passwd = text(&stage, "/etc/passwd")
        .await
        .map_err(|error| Failure::new(step, error))?;
    let named = passwd
        .lines()
        .find(|line| line.split(':').nth(2) == Some(name));
    if let Some(named) = named.and_then(|line| line.split(':').next()) {
        named.clone_into(&mut context.user);
        return Ok((key, Operation::Context(context)));
    }
    let group = group
        .and_then(|group| group.parse::<u32>().ok())
        .unwrap_or(number);
    context.user = format!("u{number}");
    let passwd = format!(
        "{}u{number}:x:{number}:{group}::/:/bin/sh\n",
        with_end(&passwd)
    );
    let placement = Placement {
        origin: Origin::Context(None),
        sources: vec![Piece::Inline {
            name: "passwd".to_owned(),
            text: passwd,
        }],
        target: Target::of("/etc/", "/"),
        owner: None,
        mode: Some(0o644),
        unpacks: false,
        context,
    };
    Ok((key, Operation::Place(placement)))
}

/// A text whose last line ends.
fn with_end(text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{text}{end}")
}
