//! What must hold for every input to the parsers of hostile bytes, one function per parser.
//!
//! The same functions judge the committed inputs on every run of the tests (`tests/corpus.rs`) and new ones under
//! libFuzzer (`fuzz/`). A property is more than "does not panic": what was read can be written and read again, the
//! same request in another spelling gets the same decision, bytes in other pieces give the same frames.
//!
//! Programs have no library, and libraries do not publish their parsers: [`taken`] takes in their pure files by path.

mod bodies;
mod config;
mod dns;
mod frames;
mod guest_files;
mod hello;
mod keystore;
mod looks;
mod names;
mod plans;
mod records;
mod routing;
mod taken;

// `manifest.rs` looks for it here.
pub(crate) use taken::digest;
// And `parse.rs` for this.
pub(crate) use taken::difference;

/// A property: panics when it does not hold for these bytes.
pub type Property = fn(&[u8]);

/// Every property, by the name of its fuzz target and of its directory of inputs.
pub const ALL: [(&str, Property); 19] = [
    ("bodies", bodies::bodies),
    ("config", config::config),
    ("dns", dns::dns),
    ("frames", frames::frames),
    ("guest_paths", guest_files::paths),
    ("hello", hello::hello),
    ("ids", names::ids),
    ("keystore", keystore::keystore),
    ("launch_plan", plans::plans),
    ("look", looks::look),
    ("manifest", records::manifest),
    ("metadata", bodies::metadata),
    ("multipart", guest_files::multipart),
    ("names", names::names),
    ("ranges", guest_files::ranges),
    ("reserved", routing::reserved),
    ("routing", routing::routing),
    ("signature", guest_files::signature),
    ("state", records::state),
];

/// The property with this name.
#[must_use]
pub fn named(name: &str) -> Option<Property> {
    ALL.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, property)| *property)
}
