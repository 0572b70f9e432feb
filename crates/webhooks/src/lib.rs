//! Tells webhooks of events.
//!
//! What is to be told is in the database, with the event that it is about; here it is sent until the receiver has said
//! yes, at least once and over restarts of the server. Who receives is named by a team, which is not trusted: where
//! requests may go is the operator's decision, see [`places`].
//!
//! Reading order: [`message`] (what is sent), [`schedule`] (when again), [`places`] (where to), `sender`.

pub mod message;
pub mod places;
pub mod schedule;
mod sender;

pub use places::{Places, PrivateWebhook};
pub use sender::{Settings, Webhooks};
