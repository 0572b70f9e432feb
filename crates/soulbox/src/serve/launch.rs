//! The first moments of `soulbox serve`, as root and in one thread: take what only root can take, start the helper,
//! and become the server, which is nobody.
//!
//! The process keeps its number: whoever started it waits for, signals and supervises the server itself.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Context as _, bail};
use rustix::io::FdFlags;
use soulbox_linux::{exec, socket};

use super::certificates;
use super::claim::require_root;
use super::handover::{self, Handover, Place, Settings, Started, Wanted};
use super::key_command;
use super::reach::make_reachable;
use crate::config::{Effective, Tls};

/// Tells the server's process which descriptors it was left: the numbers, in the order of [`super::Inherited`].
pub(crate) const HANDOVER_VARIABLE: &str = "SOULBOX_INTERNAL_DESCRIPTORS";
/// Most bytes of the helper's first word.
const FIRST_WORD_BYTES: usize = 64 * 1024;

/// Starts the helper and becomes the server. Returns only on failure.
pub(crate) fn launch(effective: &Effective) -> anyhow::Result<Infallible> {
    let config = &effective.config;
    require_root()?;
    let listener = listen(config.listen, "--listen")?;
    let secure = config.tls.as_ref().and_then(|tls| tls.listen);
    let secure = secure
        .map(|address| listen(address, "--tls-listen"))
        .transpose()?;
    let files = config.tls.as_ref().and_then(Tls::files);
    let certificate = files.map(certificates::read).transpose()?;
    let secrets_key = config.secrets_key_command.as_deref();
    let secrets_key = secrets_key.map(key_command::run).transpose()?;
    let rules_ca = config.rules_ca_file.as_deref().map(pem).transpose()?;
    let acme = config.tls.as_ref().and_then(Tls::acme);
    let acme_ca = acme.and_then(|acme| acme.ca_file.as_deref());
    let acme_ca = acme_ca.map(pem).transpose()?;
    let settings = Settings::of(effective);
    let https = config
        .tls
        .as_ref()
        .map(|_| secure.as_ref().unwrap_or(&listener));
    let https = https.map(TcpListener::local_addr).transpose()?;
    let wanted = Wanted {
        settings,
        https_port: https.map(|address| address.port()),
    };
    let (helper, mut helped) = start_helper(&wanted, &config.data_dir)?;
    let place = helped.place;
    let handover = Handover {
        settings: wanted.settings,
        place: place.clone(),
        certificate,
        secrets_key,
        rules_ca,
        acme_ca,
    };
    let document = exec::sealed_memfd("handover", &serde_json::to_vec(&handover)?, false)?;
    let mut left = vec![document, helper, listener.into()];
    left.append(&mut helped.sockets);
    left.extend(secure.map(OwnedFd::from));
    make_reachable(&place.data_dir)?;
    Err(become_server(place.server_id, &left))
}

fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}\nFIX: stop what uses that address, or choose another with {flag}")
    })
}

fn pem(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| {
        format!(
            "cannot read {}\nFIX: name a PEM file that exists",
            path.display()
        )
    })
}

struct Helped {
    place: Place,
    sockets: Vec<OwnedFd>,
}

/// Starts the helper and waits until it holds the server's place on the host.
fn start_helper(wanted: &Wanted, data_dir: &Path) -> anyhow::Result<(OwnedFd, Helped)> {
    let (ours, theirs) = socket::seqpacket_pair()?;
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    // A process group of its own: Ctrl-C is for the server, which then tells the helper.
    Command::new("/proc/self/exe")
        .arg0("soulbox")
        .args(["helper", "--socket", &theirs.as_raw_fd().to_string()])
        // For those who look at the list of processes.
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the helper")?;
    drop(theirs);
    socket::send(&ours, &serde_json::to_vec(wanted)?, &[])?;
    let Some((bytes, sockets)) = socket::receive(&ours, FIRST_WORD_BYTES)? else {
        bail!("the helper ended before it was ready");
    };
    match serde_json::from_slice(&bytes)? {
        Started::Ready(place) => Ok((ours, Helped { place, sockets })),
        Started::Failed(texts) => Err(handover::error(texts)),
    }
}

/// Executes this program again, with the same arguments, as a user that has no rights anywhere and cannot get any.
fn become_server(id: u32, left: &[OwnedFd]) -> anyhow::Error {
    let numbers: Vec<String> = left.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let prepared = left
        .iter()
        .try_for_each(|fd| rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::empty()))
        .and_then(|()| rustix::thread::set_no_new_privs(true));
    if let Err(error) = prepared {
        return io::Error::from(error).into();
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // With a user, the standard library also drops every supplementary group.
    let error = command
        .args(arguments)
        .env(HANDOVER_VARIABLE, numbers.join(","))
        .uid(id)
        .gid(id)
        .exec();
    anyhow::Error::from(error).context("cannot become the server")
}
