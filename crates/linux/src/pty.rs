//! Pseudo-terminals: a pair of ends and the window size.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Both ends of a new terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end of the one who watches and types.
    pub master: OwnedFd,
    /// The end that the program takes as its terminal.
    pub slave: OwnedFd,
}

/// Opens a terminal in this process's `/dev/pts` and gives it to a user, who may then open it by name.
///
/// # Errors
/// When `/dev/ptmx` is missing or terminals have run out.
pub fn open(owner: u32, rows: u16, cols: u16) -> io::Result<Pty> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    // By descriptor, not by name: the name means nothing when /dev/pts is another mount than the master's.
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    fchown(&slave, Some(Uid::from_raw(owner)), None::<Gid>)?;
    fchmod(&slave, Mode::from_raw_mode(0o620))?;
    resize(&master, rows, cols)?;
    Ok(Pty { master, slave })
}

/// Sets the window size; the kernel sends SIGWINCH to the foreground group when it changes.
///
/// # Errors
/// When `master` is no terminal.
pub fn resize(master: impl AsFd, rows: u16, cols: u16) -> io::Result<()> {
    Ok(tcsetwinsize(
        master,
        Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::termios::{isatty, tcgetwinsize};

    #[test]
    fn sizes_are_seen_on_the_other_end() {
        let me = rustix::process::getuid().as_raw();
        let pty = open(me, 24, 80).unwrap();
        assert!(isatty(&pty.slave));
        let size = tcgetwinsize(&pty.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (24, 80));
        resize(&pty.master, 30, 100).unwrap();
        let size = tcgetwinsize(&pty.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (30, 100));
    }
}
