//! Names in the network policies of sandboxes: who may be told which, and what connections to port 80 and port 443 are
//! judged by.
//!
//! The kernel leads connections here that no address in a policy opens (`soulbox_net::policy`). [`Gate`] knows which
//! sandbox an address belongs to, what it may reach and which addresses the resolver has told it lately; [`proxy`] reads
//! the name that a connection asks for and lets it through or refuses it. What must stay true: an address that belongs to
//! no sandbox gets nothing; a name opens only those addresses that our resolver gave for it; a connection that no
//! header rule is about is passed on as it is.

mod broker;
mod contact;
mod far;
mod gate;
mod hello;
mod hide;
mod intercept;
mod outside;
mod plain;
pub mod proxy;
mod relay;
pub mod witness;

pub use broker::Broker;
pub use contact::Contact;
pub use gate::Gate;
