//! `soulbox ca`: the certificate that clients of a server with its own authority are to trust.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, bytes, note};
use crate::serve::AUTHORITY_PREFIX;

const HOW: &str = "\
To trust it, on the machine of the client:
  soulbox ca > soulbox-ca.pem
  Python   export SSL_CERT_FILE=$PWD/soulbox-ca.pem
  Node.js  export NODE_EXTRA_CA_CERTS=$PWD/soulbox-ca.pem
  Debian   cp soulbox-ca.pem /usr/local/share/ca-certificates/soulbox.crt && update-ca-certificates
SSL_CERT_FILE stands in place of the system's certificates. For both:
  cat /etc/ssl/certs/ca-certificates.crt soulbox-ca.pem > both.pem
It vouches for names below its domain, and for no others.";

#[derive(Serialize)]
struct Shown {
    domain: String,
    certificate: String,
}

/// Prints the certificate, and to people how to trust it.
pub(crate) fn show(data_dir: &Path, output: Output) -> Result<(), Failure> {
    let authorities = authorities(data_dir).map_err(|error| {
        Failure::user(format!("cannot read {}", data_dir.display()))
            .because(error)
            .fix("run this on the server's machine as root")
    })?;
    if authorities.is_empty() {
        return Err(Failure::user("the server has no authority of its own")
            .fix("soulbox serve --domain DOMAIN --tls-listen ADDR"));
    }
    if output == Output::Json {
        return output.json(&authorities);
    }
    for authority in &authorities {
        bytes(authority.certificate.as_bytes())?;
    }
    note(HOW);
    Ok(())
}

/// One for each domain that the server has had.
fn authorities(directory: &Path) -> io::Result<Vec<Shown>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy());
        let domain = name.as_deref().and_then(|name| {
            let domain = name.strip_prefix(AUTHORITY_PREFIX)?;
            domain.strip_suffix(".pem").map(str::to_owned)
        });
        if let Some(domain) = domain {
            let certificate = fs::read_to_string(&path)?;
            found.push(Shown {
                domain,
                certificate,
            });
        }
    }
    found.sort_by(|a, b| a.domain.cmp(&b.domain));
    Ok(found)
}
