//! Builds templates.
