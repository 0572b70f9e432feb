//! `soulbox sandbox attach`: following what runs already.

use clap::Args;
use soulbox_client::follow::Begin;

/// `soulbox sandbox attach`
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The sandbox
    pub(crate) id: String,
    /// The process, as `exec --detach` printed it
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: u32,
    /// Where to begin: with the oldest output that is still kept, with what comes from now on, or at a position in bytes
    #[arg(long, value_name = "oldest|now|N", default_value = "oldest", value_parser = begin)]
    pub(crate) from: Begin,
}

fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "oldest" => Ok(Begin::Oldest),
        "now" => Ok(Begin::Now),
        number => number
            .parse()
            .map(Begin::At)
            .map_err(|_| "neither 'oldest' nor 'now' nor a number of bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_begin() {
        assert_eq!(begin("oldest"), Ok(Begin::Oldest));
        assert_eq!(begin("now"), Ok(Begin::Now));
        assert_eq!(begin("17"), Ok(Begin::At(17)));
        assert!(begin("-1").is_err() && begin("").is_err() && begin("first").is_err());
    }
}
