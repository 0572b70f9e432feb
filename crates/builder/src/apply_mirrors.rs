//! Lets the package managers of a state ask the operator's mirrors. It is kept in the cache like a step.

use soulbox_client::process::Start;

use crate::failure::Failure;
use crate::image::STEP;
use crate::journal::Journal;
use crate::mirrors::SCRIPT;
use crate::operation::{Operation, Position};
use crate::script;
use crate::state::State;
use crate::work::Work;

impl Work {
    /// Does so where the operator has set any.
    pub(crate) async fn use_mirrors(
        &self,
        state: &mut State,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let Some(arguments) = self.mirrors.arguments() else {
            return Ok(());
        };
        let mut words = vec!["mirrors", SCRIPT];
        words.extend(arguments);
        let key = state.key.and(&words);
        let mut args = vec!["-c".to_owned(), SCRIPT.to_owned(), "sh".to_owned()];
        args.extend(arguments.map(str::to_owned));
        let operation = Operation::Run {
            start: Start {
                cmd: "/bin/sh".to_owned(),
                args,
                user: Some("root".to_owned()),
                cwd: Some("/".to_owned()),
                envs: script::environment(&state.context),
                ..Start::default()
            },
            text: "MIRRORS".to_owned(),
        };
        let position = Position {
            number: STEP.to_owned(),
            prefix: "[base]".to_owned(),
            headline: "MIRRORS".to_owned(),
        };
        self.advance(state, key, &operation, position, journal)
            .await
    }
}
