//! What the programs tell about themselves: logs, error chains, metrics, background tasks.
//!
//! Knows nothing of the rest of the product, so that every program may use it.
//! Reading order: [`logs`], [`mod@chain`], [`metrics`], [`task`].

mod chain;
pub mod logs;
pub mod metrics;
pub mod task;

pub use chain::chain;
