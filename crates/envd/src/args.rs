//! The command line: how the launcher and tests start envd.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;

use soulbox_envd_proto::PORT;

/// What envd was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Descriptor with the boot document. Present inside a sandbox, where envd is PID 1.
    pub(crate) boot_fd: Option<RawFd>,
    /// Descriptor that hears `ready` or one line of error.
    pub(crate) status_fd: Option<RawFd>,
    /// Open `cgroup.procs` files of the cgroups that the user's processes belong to.
    pub(crate) user_cgroup_fds: Vec<RawFd>,
    /// Open file that counts the user's processes killed for lack of memory.
    pub(crate) oom_fd: Option<RawFd>,
    /// Access token, for running outside a sandbox.
    pub(crate) token: Option<String>,
    /// Account used when a request names none, for running outside a sandbox.
    pub(crate) user: Option<String>,
    /// Print the version and end.
    pub(crate) version: bool,
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args {
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        boot_fd: None,
        status_fd: None,
        user_cgroup_fds: Vec::new(),
        oom_fd: None,
        token: None,
        user: None,
        version: false,
    };
    let mut args = args.into_iter();
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--listen" => parsed.listen = number(&option, &value()?)?,
            "--boot-fd" => parsed.boot_fd = Some(number(&option, &value()?)?),
            "--status-fd" => parsed.status_fd = Some(number(&option, &value()?)?),
            "--user-cgroup-fd" => parsed.user_cgroup_fds.push(number(&option, &value()?)?),
            "--oom-fd" => parsed.oom_fd = Some(number(&option, &value()?)?),
            "--token" => parsed.token = Some(value()?),
            "--user" => parsed.user = Some(value()?),
            "--version" => parsed.version = true,
            _ => {
                return Err(format!(
                    "unknown option {option}\nFIX: soulbox-envd [--listen ADDRESS:PORT] [--token TOKEN] [--user NAME] \
                     [--boot-fd N --status-fd N] [--user-cgroup-fd N]... [--oom-fd N]"
                ));
            }
        }
    }
    Ok(parsed)
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{option}: {value:?} is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Args, String> {
        parse(args.iter().map(ToString::to_string))
    }

    #[test]
    fn launcher_and_test_forms() {
        let boot = of(&[
            "--boot-fd",
            "3",
            "--status-fd",
            "4",
            "--user-cgroup-fd",
            "5",
            "--oom-fd",
            "6",
        ])
        .unwrap();
        assert_eq!(
            (boot.boot_fd, boot.status_fd, boot.listen.port()),
            (Some(3), Some(4), PORT)
        );
        assert_eq!((boot.user_cgroup_fds, boot.oom_fd), (vec![5], Some(6)));
        let test = of(&["--listen", "127.0.0.1:0", "--token", "t"]).unwrap();
        assert_eq!((test.listen.port(), test.token.as_deref()), (0, Some("t")));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(of(&["--boot-fd", "x"]).unwrap_err().contains("--boot-fd"));
        assert!(of(&["--listen"]).unwrap_err().contains("needs a value"));
        assert!(of(&["--nonsense"]).unwrap_err().contains("FIX:"));
    }
}
