//! What a build has reached: a stack of layers, and the context of whatever runs on them.

use soulbox_types::{BuildContext, LayerDigest, StartCommand, digest};

use crate::key::Key;

/// What a build has reached.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) key: Key,
    /// Topmost first.
    pub(crate) layers: Vec<LayerDigest>,
    /// How many of them are what the steps of this build did.
    own: usize,
    own_bytes: i64,
    /// Of an image that was unpacked for this build; nothing when it goes on from a template.
    pub(crate) ground_bytes: i64,
    pub(crate) context: BuildContext,
    pub(crate) start: Option<StartCommand>,
    /// Nothing is taken from the cache any more.
    pub(crate) force: bool,
}

impl State {
    /// Puts a layer on top.
    pub(crate) fn lay(&mut self, layer: LayerDigest) {
        if digest::lay(&mut self.layers, layer).is_some_and(|was| was < self.own) {
            self.own -= 1;
        }
    }

    /// A build that has done nothing yet.
    pub(crate) fn on(
        key: Key,
        layers: Vec<LayerDigest>,
        context: BuildContext,
        force: bool,
    ) -> Self {
        Self {
            key,
            layers,
            own: 0,
            own_bytes: 0,
            ground_bytes: 0,
            context,
            start: None,
            force,
        }
    }

    /// Puts a layer on top that a step of this build has made.
    pub(crate) fn lay_own(&mut self, layer: LayerDigest, size_bytes: i64) {
        self.lay(layer);
        self.own += 1;
        self.own_bytes += size_bytes;
    }

    /// The layers that steps of this build have made, topmost first.
    pub(crate) fn own_layers(&self) -> &[LayerDigest] {
        &self.layers[..self.own]
    }

    /// Puts one layer in the place of all that steps of this build have made.
    pub(crate) fn replace_own(&mut self, layer: LayerDigest, size_bytes: i64) {
        self.layers.drain(..self.own);
        self.own = 0;
        self.lay(layer);
        self.own = 1;
        self.own_bytes = size_bytes;
    }

    /// Bytes of the layers that this build has made or unpacked.
    pub(crate) fn size_bytes(&self) -> i64 {
        self.ground_bytes + self.own_bytes
    }

    /// Where relative paths of a Dockerfile begin.
    pub(crate) fn workdir(&self) -> &str {
        self.context.workdir.as_deref().unwrap_or("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_in_a_stack_once() {
        let [a, b, c] = [1, 2, 3].map(|n| LayerDigest::from_bytes([n; 32]));
        let key = Key::of_image("x");
        let mut state = State::on(key, vec![c], BuildContext::default(), false);
        for layer in [a, b, a] {
            state.lay_own(layer, 1);
        }
        assert_eq!(
            (state.layers.clone(), state.own_layers()),
            (vec![a, b, c], &[a, b][..])
        );
        state.lay(c);
        assert_eq!(state.layers, [c, a, b]);
    }
}
