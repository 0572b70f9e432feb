//! `soulbox sandbox url`: an address that opens a port.

use soulbox_api_types::url::NewPortUrl;
use soulbox_client::Api;

use crate::args::UrlArgs;
use crate::failure::Failure;
use crate::output::{Output, note};
use crate::session::failure;
use crate::text::moment;

/// Prints the address; how long it is good, beside it.
pub(crate) async fn url(api: &Api, args: &UrlArgs, output: Output) -> Result<(), Failure> {
    let wanted = NewPortUrl {
        port: args.port.into(),
        expires_in: Some(args.seconds),
    };
    let made = api.port_url(&args.id, &wanted).await;
    let made = made.map_err(|error| failure(&error, Some(&args.id)))?;
    if output == Output::Text {
        note(&match &made.expires_at {
            Some(end) => format!(
                "opens port {} to whoever has it, until {}",
                made.port,
                moment(end)
            ),
            None => "traffic to this sandbox is public: the address has no end date".to_owned(),
        });
    }
    output.show(&made, |made| made.url.clone())
}
