//! See `soulbox_properties`: the property of this name judges each input.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use soulbox_properties::{Property, named};

static PROPERTY: LazyLock<Property> = LazyLock::new(|| named("hello").expect("the list has it"));

fuzz_target!(|data: &[u8]| PROPERTY(data));
