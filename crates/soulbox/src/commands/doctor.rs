//! `soulbox doctor`: what this machine can do, and what to mend.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use soulbox_acme::validity;
use soulbox_doctor::{Asked, HttpsCertificate, Life, RenewedBy, Status, gather, judge};
use soulbox_driver_linux::{BackingChoice, disk, look_for_criu};

use crate::args::{Global, ServeArgs};
use crate::config::{Config, Issuer, Unreadable, load, read_inputs};
use crate::failure::Failure;
use crate::output::Output;
use crate::serve::AcmeKept;
use crate::session;

/// Prints the report; the exit code is 0 when sandboxes can run here, warnings or not, and 1 when they cannot. Blocking:
/// called outside the runtime.
pub(crate) fn run(global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let data_dir = session::data_dir(global)?;
    let flags = ServeArgs::default().layer(global);
    let config = read_inputs(global.config.as_deref(), flags, Unreadable::Fails)
        .and_then(|inputs| load(&inputs))
        .map(|effective| effective.config);
    let choice = config
        .as_ref()
        .map_or(BackingChoice::Auto, |config| config.disk.backing);
    let existing = data_dir.ancestors().find(|directory| directory.is_dir());
    let asked = Asked {
        listen: config.as_ref().ok().map(|config| config.listen),
        criu: look_for_criu(&data_dir),
        https_certificate: config
            .as_ref()
            .ok()
            .and_then(|config| https_certificate(config, &data_dir)),
        acme_dns_command: config.as_ref().ok().and_then(acme_dns_command),
        disk_backing: disk::probe(existing.unwrap_or(&data_dir), choice)
            .map(|backing| backing.to_string())
            .map_err(|error| first_line(&error.to_string())),
        configuration: config
            .map(|_| ())
            .map_err(|failure| first_line(&failure.to_string())),
    };
    let report = judge(&gather(&data_dir, asked));
    output.show(&report, |report| report.to_string().trim_end().to_owned())?;
    Ok(match report.status {
        Status::Ok | Status::Warn => ExitCode::SUCCESS,
        Status::Fail => ExitCode::FAILURE,
    })
}

/// The certificate that somebody else makes, as it lies there now.
fn https_certificate(config: &Config, data_dir: &Path) -> Option<HttpsCertificate> {
    let (tls, domain) = (config.tls.as_ref()?, config.domain.as_ref()?);
    let (from, renewed_by, chain) = match &tls.issuer {
        Issuer::Own => return None,
        Issuer::Operator(files) => (
            files.cert.display().to_string(),
            RenewedBy::Operator,
            std::fs::read(&files.cert),
        ),
        Issuer::Acme(acme) => {
            let kept = AcmeKept::of(data_dir, domain).certificate();
            let none = || io::Error::other("there is no certificate yet");
            let kept = kept.and_then(|kept| kept.ok_or_else(none));
            (
                acme.directory.clone(),
                RenewedBy::Server,
                kept.map(|kept| kept.chain.into_bytes()),
            )
        }
    };
    let life = chain.map_err(|error| error.to_string()).and_then(|chain| {
        let validity = validity(&chain).ok_or("its dates cannot be read")?;
        let left = validity.not_after.duration_since(SystemTime::now());
        Ok(Life {
            whole: validity.life(),
            left: left.unwrap_or_default(),
        })
    });
    Some(HttpsCertificate {
        from,
        renewed_by,
        life,
    })
}

/// Whether the first word of the command is a program.
fn acme_dns_command(config: &Config) -> Option<Result<(), String>> {
    let command = &config.tls.as_ref()?.acme()?.dns_command;
    let program = command.split_whitespace().next()?;
    let usable = rustix::fs::access(program, rustix::fs::Access::EXEC_OK);
    Some(usable.map_err(|error| format!("{program} cannot be run: {error}")))
}

/// What to do about it stands in the report's own line.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
