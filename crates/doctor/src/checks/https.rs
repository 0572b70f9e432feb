//! Whether clients can trust HTTPS, and will.

use std::time::Duration;

use crate::facts::{Facts, HttpsCertificate, RenewedBy};
use crate::report::Check;

/// Certificates are renewed with a third of their life left. With less than this part, that has failed.
const LATE: u32 = 4;
const DAY: u64 = 86_400;

pub(super) fn all(facts: &Facts) -> impl Iterator<Item = Check> {
    let certificate = facts.https_certificate.as_ref().map(certificate);
    certificate.into_iter().chain(dns_command(facts))
}

fn certificate(certificate: &HttpsCertificate) -> Check {
    let HttpsCertificate {
        from,
        renewed_by,
        life,
    } = certificate;
    let fix = match renewed_by {
        RenewedBy::Operator => "renew the files of tls_cert and tls_key",
        RenewedBy::Server => "look for `there is no new certificate` in the server's log",
    };
    let name = "https certificate";
    match life {
        Err(reason) => Check::warn(name, format!("{from}: {reason}"), fix),
        Ok(life) if life.left.is_zero() => Check::warn(
            name,
            format!("{from}: it has EXPIRED, and clients refuse this server"),
            fix,
        ),
        Ok(life) => {
            let found = format!("{from}: {} left", shown(life.left));
            if life.left < life.whole / LATE {
                let found = format!("{found}, and it should have been renewed");
                Check::warn(name, found, fix)
            } else {
                Check::ok(name, found)
            }
        }
    }
}

fn dns_command(facts: &Facts) -> Option<Check> {
    let name = "acme dns command";
    let probe = facts.acme_dns_command.as_ref()?;
    Some(match probe {
        Ok(()) => Check::ok(name, "it is a program that can be run"),
        Err(reason) => Check::warn(
            name,
            reason,
            "correct acme_dns_command, or chmod +x the program",
        ),
    })
}

fn shown(left: Duration) -> String {
    match left.as_secs() {
        seconds if seconds >= 2 * DAY => format!("{} days", seconds / DAY),
        seconds if seconds >= 7200 => format!("{} hours", seconds / 3600),
        seconds => format!("{} minutes", seconds / 60),
    }
}
