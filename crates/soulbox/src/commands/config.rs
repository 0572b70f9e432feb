//! `soulbox config check`: the effective configuration and where each value came from.

use serde::Serialize;

use crate::args::{Global, ServeArgs};
use crate::config::raw::Setting;
use crate::config::{Effective, Unreadable, load, read_inputs};
use crate::failure::Failure;
use crate::output::{Output, table};

#[derive(Serialize)]
struct Row {
    key: &'static str,
    value: String,
    source: String,
}

/// Prints it, or all its problems.
pub(crate) fn check(global: &Global, args: &ServeArgs, output: Output) -> Result<(), Failure> {
    let inputs = read_inputs(
        global.config.as_deref(),
        args.layer(global),
        Unreadable::Fails,
    )?;
    output.show(&rows(&load(&inputs)?), |rows| {
        table(
            ["KEY", "VALUE", "FROM"],
            rows.iter()
                .map(|row| [row.key.to_owned(), row.value.clone(), row.source.clone()]),
        )
    })
}

/// No setting is a secret: keys and tokens live in files of the data directory, and `tls_key` is only a path.
/// Whoever adds one that is must leave its text out here.
fn rows(effective: &Effective) -> Vec<Row> {
    let row = |key: Setting| {
        let raw = effective.raw.get(key);
        Row {
            key: key.name(),
            value: raw.text.clone(),
            source: raw.source.to_string(),
        }
    };
    Setting::ALL.map(row).into()
}
