//! The ground that is another template: what its latest build has left.

use soulbox_store::LogLevel;
use soulbox_types::{BuildContext, LayerDigest, TemplateRef};

use crate::failure::Failure;
use crate::image::STEP;
use crate::journal::Journal;
use crate::key::Key;
use crate::state::State;
use crate::work::Work;

/// The image that SDKs name when they mean "the usual": our own base template.
const BASE_IMAGE: &str = "e2bdev/base";
/// The template that is meant by it.
pub(crate) const BASE_TEMPLATE: &str = "base";

/// Whether an image's name means our own base template.
pub(crate) fn is_base_image(reference: &str) -> bool {
    let name = reference.strip_prefix("docker.io/").unwrap_or(reference);
    name.split([':', '@']).next() == Some(BASE_IMAGE)
}

/// What stands before a template's name where an image is asked for: a registry that is this server.
/// Top-level domains of that name are not given out, so no image has it.
const TEMPLATES: &str = "templates.soulbox/";

/// The template that is meant by an image's name, if one is: `templates.soulbox/NAME[:TAG]`.
pub(crate) fn template_of(reference: &str) -> Option<&str> {
    reference.strip_prefix(TEMPLATES)
}

impl Work {
    /// The end of another template's build.
    pub(crate) async fn template(
        &self,
        name: &str,
        headline: &str,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let not_found = || Failure::new(STEP, format!("template '{name}' not found"));
        let reference: TemplateRef = name.parse().map_err(|_| not_found())?;
        let found = self.store.resolve_template(&self.team, &reference).await;
        let base = found
            .map_err(|error| Failure::new(STEP, soulbox_telemetry::chain(&error)))?
            .build;
        let layers: Result<Vec<LayerDigest>, _> =
            base.layers.iter().map(|text| text.parse()).collect();
        let layers = layers.map_err(|_| {
            Failure::new(
                STEP,
                "error getting base template, you may need to rebuild it first",
            )
        })?;
        let context = BuildContext {
            user: base.default_user,
            workdir: base.default_workdir,
            env: base.env,
        };
        let key = Key::of_build(&base.id, &context);
        let line = format!("[base] {headline} [{}]", key.short());
        journal.say(LogLevel::Info, Some(STEP), line).await;
        let mut state = State::on(key, layers, context, self.request.force);
        state.start = base.start;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_among_images() {
        assert_eq!(template_of("templates.soulbox/a:v1"), Some("a:v1"));
        assert_eq!(template_of("templates.soulbox/team/a"), Some("team/a"));
        for image in ["a", "templates.soulbox.example/a", "x/templates.soulbox/a"] {
            assert_eq!(template_of(image), None, "{image}");
        }
    }

    #[test]
    fn the_usual_image() {
        for image in [
            "e2bdev/base",
            "e2bdev/base:latest",
            "docker.io/e2bdev/base@sha256:x",
        ] {
            assert!(is_base_image(image), "{image}");
        }
        for image in ["e2bdev/based", "base", "x/e2bdev/base", "debian:12"] {
            assert!(!is_base_image(image), "{image}");
        }
    }
}
