//! Files of other crates, taken in by path: pure parsers that nobody but their own crate should be able to call.

macro_rules! take {
    ($($name:ident from $path:literal)*) => {$(
        #[path = $path]
        #[allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "only the parser is looked at")]
        pub(crate) mod $name;
    )*};
}

take! {
    difference from "../../builder/src/difference.rs"
    parse from "../../builder/src/look/parse.rs"
    dns from "../../net/src/dns.rs"
    envelope from "../../client/src/envelope.rs"
    hello from "../../egress/src/hello.rs"
    manifest from "../../artifacts/src/manifest.rs"
    multipart from "../../envd/src/files/multipart.rs"
    path from "../../envd/src/path.rs"
    range from "../../envd/src/files/range.rs"
    signature from "../../envd/src/files/signature.rs"
    metadata from "../../api/src/metadata.rs"
    strict from "../../api/src/extract/strict.rs"
    raw from "../../soulbox/src/config/raw.rs"
    suggest from "../../soulbox/src/config/suggest.rs"
}

/// What `manifest.rs` knows as its crate's.
pub(crate) mod digest {
    pub(crate) use soulbox_types::LayerDigest;
}
