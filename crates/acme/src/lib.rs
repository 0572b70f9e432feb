//! Certificates of a public authority for a domain and all names one label below it: ACME (RFC 8555) with the challenge
//! that DNS answers, since no other vouches for a wildcard.
//!
//! This crate speaks to the authority and says when. It keeps nothing and changes no DNS: who calls it does.

mod order;
mod peer;
mod validity;
mod when;

pub use order::{AcmeError, Failure, Issued, Order, Present, new_key};
pub use peer::Peer;
pub use validity::{Validity, validity};
pub use when::{Trouble, is_due, wait};
