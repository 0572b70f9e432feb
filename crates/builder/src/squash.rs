//! Makes one layer of those that the steps of a build have made: sandboxes start as fast from many steps as from one.

use soulbox_store::CachedStep;

use crate::cache::bytes;
use crate::failure::Failure;
use crate::state::State;
use crate::work::Work;

const STEP: &str = "finalize";

impl Work {
    /// Puts one layer in the place of the build's own, from the cache or out of them; of one there is nothing to make.
    pub(crate) async fn squash(&self, state: &mut State) -> Result<(), Failure> {
        if state.own_layers().len() < 2 {
            return Ok(());
        }
        let key = state.key.squashed();
        let cached = self.known(state, &key, STEP).await?;
        let (layer, size_bytes) = match cached.and_then(|step| Some((step.layer?, step.size_bytes)))
        {
            Some(known) => known,
            None => {
                let made = self.driver.squash(state.own_layers()).await;
                let made = made.map_err(Failure::driver(STEP))?;
                let step = CachedStep {
                    layer: Some(made.digest),
                    context: state.context.clone(),
                    size_bytes: bytes(&made),
                };
                self.remember(&key, &step, STEP).await?;
                (made.digest, step.size_bytes)
            }
        };
        state.replace_own(layer, size_bytes);
        Ok(())
    }
}
