//! Where the network bench happens: a far side with public-looking addresses, and a plain network namespace whose
//! packets are masqueraded, which is what a sandbox's network is compared with.
//!
//! Everything is made with the host's own programs, and goes when [`Ground`] is dropped, also after Ctrl-C.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{DIRECT, FAR, MIDDLE};
use crate::BenchError;

const FAR_PROGRAM: &str = include_str!("far.py");
/// Where mitmproxy takes connections, on the host's end of the plain namespace's cable.
const MIDDLE_PORT: u16 = 28_080;
/// The plain namespace's end of its cable, and the host's.
const PLAIN: [&str; 2] = ["10.251.77.2", "10.251.77.1"];

/// Two namespaces, their cables, a table of rules, and the programs in them.
#[derive(Debug)]
pub(super) struct Ground {
    /// Begins the names of all that is made.
    name: String,
    work: TempDir,
    programs: Vec<Child>,
}

impl Ground {
    /// Makes it. `pem` is what the far side shows over TLS; without, it makes a certificate of its own.
    pub(super) fn open(pem: Option<&Path>) -> Result<Self, BenchError> {
        let work = tempfile::Builder::new()
            .prefix("soulbox-bench-")
            .tempdir()
            .map_err(|error| missing(&error.to_string()))?;
        let mut ground = Self {
            name: format!("bench{}", std::process::id() % 1_000_000),
            work,
            programs: Vec::new(),
        };
        ground.connect(&ground.far(), "f", FAR, &[])?;
        ground.connect(
            &ground.plain(),
            "p",
            [PLAIN[0], PLAIN[1]],
            &["default", "via", PLAIN[1]],
        )?;
        ground.translate()?;
        let pem = match pem {
            Some(pem) => pem.to_owned(),
            None => ground.certificate()?,
        };
        ground.start_far(&pem)?;
        Ok(ground)
    }

    /// The namespace of the far side.
    fn far(&self) -> String {
        format!("{}far", self.name)
    }

    /// The plain namespace.
    pub(super) fn plain(&self) -> String {
        format!("{}plain", self.name)
    }

    /// A namespace on a cable: its own addresses first, the host's last.
    fn connect<const N: usize>(
        &self,
        namespace: &str,
        letter: &str,
        addresses: [&str; N],
        route: &[&str],
    ) -> Result<(), BenchError> {
        let (outer, inner) = (
            format!("{}{letter}", self.name),
            format!("{}{letter}n", self.name),
        );
        let Some((host, own)) = addresses.split_last() else {
            return Ok(());
        };
        run("ip", &["netns", "add", namespace])?;
        run(
            "ip",
            &[
                "link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", namespace,
            ],
        )?;
        run(
            "ip",
            &["address", "add", &format!("{host}/24"), "dev", &outer],
        )?;
        run("ip", &["link", "set", &outer, "up"])?;
        for address in own {
            run(
                "ip",
                &[
                    "-n",
                    namespace,
                    "address",
                    "add",
                    &format!("{address}/24"),
                    "dev",
                    &inner,
                ],
            )?;
        }
        for link in ["lo", &inner] {
            run("ip", &["-n", namespace, "link", "set", link, "up"])?;
        }
        if !route.is_empty() {
            run("ip", &[&["-n", namespace, "route", "add"], route].concat())?;
        }
        Ok(())
    }

    /// Plain NAT, and the way through mitmproxy to one address.
    fn translate(&self) -> Result<(), BenchError> {
        let (table, [plain, _]) = (&self.name, PLAIN);
        let rules = format!(
            "table ip {table} {{\n\
             chain prerouting {{ type nat hook prerouting priority dstnat; policy accept;\n\
             ip saddr {plain} ip daddr {MIDDLE} tcp dport {{ 80, 443 }} redirect to :{MIDDLE_PORT}\n}}\n\
             chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
             ip saddr {plain} masquerade\n}}\n}}\n"
        );
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| missing(&format!("nft: {error}")))?;
        let written = nft
            .stdin
            .take()
            .map(|mut stdin| stdin.write_all(rules.as_bytes()));
        let ended = nft.wait().map_err(|error| missing(&error.to_string()))?;
        match written {
            Some(Ok(())) if ended.success() => Ok(()),
            _ => Err(missing("nft refused the rules of plain NAT")),
        }
    }

    fn certificate(&self) -> Result<PathBuf, BenchError> {
        let pem = self.work.path().join("far.pem");
        let path = pem.display().to_string();
        run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=bench.test",
                "-keyout",
                &path,
                "-out",
                &path,
            ],
        )?;
        Ok(pem)
    }

    fn start_far(&mut self, pem: &Path) -> Result<(), BenchError> {
        let prefix = DIRECT.rsplit_once('.').map_or(DIRECT, |(prefix, _)| prefix);
        let mut far = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.far(),
                "python3",
                "-c",
                FAR_PROGRAM,
                prefix,
            ])
            .arg(pem)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| missing(&format!("ip: {error}")))?;
        let mut word = String::new();
        let said = far
            .stdout
            .take()
            .map(|out| BufReader::new(out).read_line(&mut word));
        self.programs.push(far);
        match (said, word.trim()) {
            (Some(Ok(_)), "up") => Ok(()),
            _ => Err(missing(
                "the servers of the far side do not start; they need python3",
            )),
        }
    }

    /// Starts mitmproxy between the plain namespace and [`MIDDLE`].
    ///
    /// # Errors
    /// Why it is not there.
    pub(super) fn start_middle(&mut self) -> Result<(), String> {
        let log = self.work.path().join("mitmdump.log");
        let out = std::fs::File::create(&log).map_err(|error| error.to_string())?;
        let mitmdump = Command::new("mitmdump")
            .args([
                "--mode",
                "transparent",
                "--showhost",
                "--ssl-insecure",
                "--quiet",
            ])
            .args([
                "--listen-host",
                PLAIN[1],
                "--listen-port",
                &MIDDLE_PORT.to_string(),
            ])
            .args([
                "--set",
                "stream_large_bodies=64k",
                "--set",
                "connection_strategy=lazy",
            ])
            .args(["--modify-headers", "/~q/X-Bench/0123456789abcdef"])
            .arg("--set")
            .arg(format!("confdir={}", self.work.path().display()))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("mitmdump: {error}"))?;
        self.programs.push(mitmdump);
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for program in &mut self.programs {
            // One that has ended by itself is gone already.
            program.kill().and_then(|()| program.wait()).ok();
        }
        // What was not made cannot be removed; the rest must be tried all the same.
        run("nft", &["delete", "table", "ip", &self.name]).ok();
        for letter in ["f", "p"] {
            run("ip", &["link", "delete", &format!("{}{letter}", self.name)]).ok();
        }
        for namespace in [self.far(), self.plain()] {
            run("ip", &["netns", "delete", &namespace]).ok();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), BenchError> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| missing(&format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(missing(&format!(
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}

fn missing(what: &str) -> BenchError {
    BenchError::Reference(format!(
        "{what}\nFIX: run the bench as root on the server's machine, with the packages iproute2, nftables, openssl and python3"
    ))
}
