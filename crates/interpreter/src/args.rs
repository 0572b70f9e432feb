//! The command line. Few words, so it is read by hand: the program is in every sandbox of its template.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::kernelspec;

/// The text of `--help`.
pub(crate) const HELP: &str = "\
soulbox-interpreter [serve] [OPTIONS]

Runs code in Jupyter kernels and answers over HTTP. Without `serve` it starts itself again when it ends.

  --listen ADDRESS   [default: 0.0.0.0:49999]
  --envd ADDRESS     the daemon of the sandbox [default: 127.0.0.1:49983]
  --identity FILE    names the sandbox [default: /run/e2b/.E2B_SANDBOX_ID]
  --home DIRECTORY   where contexts work [default: /home/user]
  --run DIRECTORY    for sockets [default: /run/soulbox-interpreter]
  --backing DIRECTORY  for the memory that sandboxes of the template share [default: /var/lib/soulbox-interpreter]
  --kernels DIRECTORY  instead of Jupyter's own; may be repeated
";

/// What it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    /// Serve, instead of seeing to it that somebody serves.
    pub(crate) is_server: bool,
    pub(crate) listen: SocketAddr,
    pub(crate) envd: String,
    pub(crate) identity: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) backing: PathBuf,
    pub(crate) kernels: Vec<PathBuf>,
}

/// Reads it; the error is the sentence to print.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Args, String> {
    let mut args = Args {
        is_server: false,
        listen: SocketAddr::from(([0, 0, 0, 0], 49999)),
        envd: "127.0.0.1:49983".into(),
        identity: "/run/e2b/.E2B_SANDBOX_ID".into(),
        home: "/home/user".into(),
        run: "/run/soulbox-interpreter".into(),
        backing: "/var/lib/soulbox-interpreter".into(),
        kernels: Vec::new(),
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "serve" {
            args.is_server = true;
            continue;
        }
        let known = [
            "--listen",
            "--envd",
            "--identity",
            "--home",
            "--run",
            "--backing",
            "--kernels",
        ];
        if !known.contains(&word.as_str()) {
            return Err(format!("{word} is unknown\n\n{HELP}"));
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--listen" => {
                args.listen = value
                    .parse()
                    .map_err(|_| format!("{value} is no address"))?;
            }
            "--envd" => args.envd = value,
            "--identity" => args.identity = value.into(),
            "--home" => args.home = value.into(),
            "--run" => args.run = value.into(),
            _ => args.kernels.push(value.into()),
        }
    }
    if args.kernels.is_empty() {
        args.kernels = kernelspec::DIRECTORIES.map(PathBuf::from).to_vec();
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words() {
        let args = parsed("serve --listen 127.0.0.1:1 --kernels a --kernels b").unwrap();
        assert!(args.is_server && args.listen.port() == 1);
        assert_eq!(args.kernels, ["a", "b"].map(PathBuf::from));
        assert!(!parsed("").unwrap().is_server);
        assert!(
            parsed("--port 1")
                .unwrap_err()
                .starts_with("--port is unknown")
        );
        assert_eq!(parsed("--run").unwrap_err(), "--run wants a value");
    }
}
