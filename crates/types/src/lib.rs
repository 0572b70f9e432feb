//! The words of SoulBox as types: ids, names, limits, addresses, lifecycle.
//!
//! Everything here is a plain value or a pure function.
//! No I/O, no async, no knowledge of HTTP, SQL or the kernel: every other crate may depend on this one.
//!
//! Suggested reading order: [`id`], [`name`], [`limits`], [`spec`], [`build`], [`volume`], [`lifecycle`], [`event`], [`slot`], [`egress`],
//! [`cidr`], [`policy`], [`rules`], [`upstream`], [`secret`], [`error_kind`].

pub mod build;
pub mod cidr;
pub mod digest;
pub mod egress;
pub mod error_kind;
pub mod event;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod name;
pub mod policy;
pub mod rules;
pub mod secret;
pub mod slot;
pub mod spec;
pub mod timestamp;
pub mod upstream;
pub mod volume;

pub use build::{BuildContext, StartCommand};
pub use cidr::Cidr;
pub use digest::LayerDigest;
pub use error_kind::ErrorKind;
pub use event::{EndReason, EventKind};
pub use id::{
    ApiKeyId, BuildId, DeliveryId, EventId, ExecutionId, MemoryId, SandboxId, SecretId, TeamId,
    TemplateId, VolumeId, WebhookId,
};
pub use limits::Limits;
pub use name::TemplateRef;
pub use policy::{DomainPattern, EgressPolicy};
pub use secret::{SecretName, SecretSelector};
pub use slot::SlotIndex;
pub use spec::{NetworkMode, OnTimeout, SandboxSpec, TemplateImage};
pub use timestamp::Timestamp;
pub use volume::VolumeMount;
