//! What the fork server is asked for, and its codec.
//!
//! The codec is private to this crate: both ends are always the same program.

use std::os::fd::BorrowedFd;

/// A program to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpawnRequest {
    /// The program, looked up in the `PATH` of `env` unless it has a slash, and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`, the whole environment.
    pub env: Vec<Vec<u8>>,
    /// Entered after the identity has changed.
    pub cwd: Vec<u8>,
    /// Absent: keep the fork server's.
    pub credentials: Option<Credentials>,
    /// Makes a new session whose controlling terminal is the program's standard input.
    pub controlling_terminal: bool,
    /// The program's `oom_score_adj`; absent leaves it.
    pub oom_score_adj: Option<i32>,
    /// Its resource limits.
    pub limits: Vec<ResourceLimit>,
}

/// Whom the program runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one too.
    pub groups: Vec<u32>,
}

/// One `setrlimit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceLimit {
    /// `RLIMIT_…`.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// The program's standard streams.
#[derive(Clone, Copy, Debug)]
pub struct Stdio<'a> {
    /// Descriptor 0.
    pub stdin: BorrowedFd<'a>,
    /// Descriptor 1.
    pub stdout: BorrowedFd<'a>,
    /// Descriptor 2.
    pub stderr: BorrowedFd<'a>,
}

impl SpawnRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        put_list(&mut out, &self.argv);
        put_list(&mut out, &self.env);
        put_bytes(&mut out, &self.cwd);
        out.push(u8::from(self.credentials.is_some()));
        if let Some(credentials) = &self.credentials {
            put_u32(&mut out, credentials.uid);
            put_u32(&mut out, credentials.gid);
            put_length(&mut out, credentials.groups.len());
            for group in &credentials.groups {
                put_u32(&mut out, *group);
            }
        }
        out.push(u8::from(self.controlling_terminal));
        out.push(u8::from(self.oom_score_adj.is_some()));
        if let Some(score) = self.oom_score_adj {
            out.extend_from_slice(&score.to_le_bytes());
        }
        put_length(&mut out, self.limits.len());
        for limit in &self.limits {
            put_u32(&mut out, limit.resource);
            out.extend_from_slice(&limit.soft.to_le_bytes());
            out.extend_from_slice(&limit.hard.to_le_bytes());
        }
        out
    }

    /// `None` when the bytes are not a request, which only a bug can cause.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let request = Self {
            argv: input.list()?,
            env: input.list()?,
            cwd: input.bytes()?,
            credentials: if input.flag()? {
                Some(input.credentials()?)
            } else {
                None
            },
            controlling_terminal: input.flag()?,
            oom_score_adj: if input.flag()? {
                Some(i32::from_le_bytes(input.take()?))
            } else {
                None
            },
            limits: input.limits()?,
        };
        input.0.is_empty().then_some(request)
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // A request that long cannot be decoded, and is refused there.
    put_u32(out, u32::try_from(length).unwrap_or(u32::MAX));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_list(out: &mut Vec<u8>, list: &[Vec<u8>]) {
    put_length(out, list.len());
    for bytes in list {
        put_bytes(out, bytes);
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head.to_vec())
    }

    fn list(&mut self) -> Option<Vec<Vec<u8>>> {
        (0..self.u32()?).map(|_| self.bytes()).collect()
    }

    fn credentials(&mut self) -> Option<Credentials> {
        let (uid, gid) = (self.u32()?, self.u32()?);
        let groups = (0..self.u32()?)
            .map(|_| self.u32())
            .collect::<Option<_>>()?;
        Some(Credentials { uid, gid, groups })
    }

    fn limits(&mut self) -> Option<Vec<ResourceLimit>> {
        (0..self.u32()?)
            .map(|_| {
                Some(ResourceLimit {
                    resource: self.u32()?,
                    soft: self.u64()?,
                    hard: self.u64()?,
                })
            })
            .collect()
    }
}
