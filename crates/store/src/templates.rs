//! Templates, their builds and tags, and how a reference becomes a build.

use soulbox_types::{BuildId, ErrorKind, Limits, TeamId, TemplateId, TemplateRef, Timestamp};

use crate::{Order, Page, PageRequest, Store, StoreError, Team};

/// Something that sandboxes are created from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its id.
    pub id: TemplateId,
    /// Its owner.
    pub team: TeamId,
    /// Whether every team may use it.
    pub public: bool,
    /// Whether the platform offers it to everybody.
    pub is_default: bool,
    /// Its aliases without namespace.
    pub aliases: Vec<String>,
    /// Its aliases with namespace, where they have one.
    pub names: Vec<String>,
    /// What its owner says about it.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When a sandbox was last created from it.
    pub last_spawned_at: Option<Timestamp>,
    /// How many sandboxes have been created from it.
    pub spawn_count: i64,
}

/// How far a build has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildStatus {
    /// Not begun.
    Waiting,
    /// In progress.
    Building,
    /// Usable.
    Ready,
    /// Failed.
    Error,
}

/// One attempt to make a version of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// What it is a build of.
    pub template: TemplateId,
    /// How far it has come.
    pub status: BuildStatus,
    /// Limits of the sandboxes made from it.
    pub limits: Limits,
    /// Digests of its layers, topmost first.
    pub layers: Vec<String>,
    /// Version of envd that its sandboxes run.
    pub envd_version: String,
    /// User that commands run as when the caller names none.
    pub default_user: String,
    /// Working directory of commands; the user's home when absent.
    pub default_workdir: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended, well or not.
    pub finished_at: Option<Timestamp>,
}

/// A template with what lists show of its builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSummary {
    /// The template.
    pub template: Template,
    /// Its newest usable build under the tag `default`.
    pub build: Option<Build>,
    /// Status of its newest build under the tag `default`.
    pub status: Option<BuildStatus>,
    /// How many builds it has.
    pub build_count: i64,
}

/// A tag put on a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagAssignment {
    /// The tag.
    pub tag: String,
    /// What it stands for.
    pub build: BuildId,
    /// Since when.
    pub created_at: Timestamp,
}

/// What a reference means at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTemplate {
    /// The template.
    pub template: Template,
    /// Its usable build.
    pub build: Build,
}

/// A template that the server brings with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapTemplate {
    /// Its alias, without namespace.
    pub alias: String,
    /// What it is.
    pub description: Option<String>,
    /// Limits of its sandboxes.
    pub limits: Limits,
    /// Digests of its layers, topmost first.
    pub layers: Vec<String>,
    /// Version of envd that its sandboxes run.
    pub envd_version: String,
    /// User that commands run as.
    pub default_user: String,
    /// Working directory of commands.
    pub default_workdir: Option<String>,
}

/// Why a reference leads to no usable build. The texts are the wire's.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nothing has this name.
    #[error("template '{name}' not found")]
    NotFound {
        /// The name as the caller gave it, without tag.
        name: String,
    },
    /// It belongs to another team and is not public. The text does not tell it from one that does not exist.
    #[error("template '{name}' not found")]
    Foreign {
        /// The name as the caller gave it, without tag.
        name: String,
    },
    /// The template has no usable build under this tag.
    #[error("tag '{tag}' does not exist for template '{name}'")]
    TagNotFound {
        /// The name as the caller gave it, without tag.
        name: String,
        /// The tag or build id.
        tag: String,
    },
    /// The database failed.
    #[error("cannot resolve template")]
    Store(#[from] StoreError),
}

impl ResolveError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::Foreign { .. } | Self::TagNotFound { .. } => {
                ErrorKind::NotFound
            }
            Self::Store(error) => error.kind(),
        }
    }
}

impl Store {
    /// Registers a template of the server itself: public, owned by the default team, known by its bare alias, tagged
    /// `default`. What has not changed since the last start stays; what has changed becomes a new build.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn upsert_bootstrap_template(
        &self,
        wanted: &BootstrapTemplate,
    ) -> Result<ResolvedTemplate, StoreError> {
        todo!("{wanted:?}")
    }

    /// Finds the build that a reference means for this team.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve_template(
        &self,
        team: &Team,
        reference: &TemplateRef,
    ) -> Result<ResolvedTemplate, ResolveError> {
        todo!("{team:?}{reference}")
    }

    /// Finds the template that a name means for this team, whoever owns it. The tag is not looked at.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_template(
        &self,
        team: &Team,
        reference: &TemplateRef,
    ) -> Result<Option<Template>, StoreError> {
        todo!("{team:?}{reference}")
    }

    /// The usable build under a tag (or with a build id in place of the tag).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ready_build(
        &self,
        template: &TemplateId,
        tag: &str,
    ) -> Result<Option<Build>, StoreError> {
        todo!("{template}{tag}")
    }

    /// The template with this id, whoever owns it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_template(
        &self,
        id: &TemplateId,
    ) -> Result<Option<TemplateSummary>, StoreError> {
        todo!("{id}")
    }

    /// The team's templates by time of creation.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn list_templates(
        &self,
        team: &TeamId,
        order: Order,
        page: &PageRequest,
    ) -> Result<Page<TemplateSummary>, StoreError> {
        todo!("{team}{order:?}{page:?}")
    }

    /// The templates that the platform offers to everybody, by id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn default_templates(&self) -> Result<Vec<TemplateSummary>, StoreError> {
        todo!()
    }

    /// A template's builds, newest first.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn list_builds(
        &self,
        template: &TemplateId,
        page: &PageRequest,
    ) -> Result<Page<Build>, StoreError> {
        todo!("{template}{page:?}")
    }

    /// The newest assignment of each of a template's tags, sorted by tag.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_tags(&self, template: &TemplateId) -> Result<Vec<TagAssignment>, StoreError> {
        todo!("{template}")
    }
}
