//! The programs that this one carries inside itself.

use soulbox_driver_linux::Programs;

/// `soulbox-jail` and `soulbox-envd`, as built for this machine's architecture.
pub(crate) const PROGRAMS: Programs<'static> = Programs {
    jail: include_bytes!(env!("SOULBOX_JAIL")),
    envd: include_bytes!(env!("SOULBOX_ENVD")),
    tar: include_bytes!(env!("SOULBOX_TAR")),
};
