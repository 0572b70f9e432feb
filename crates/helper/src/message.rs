//! What server and helper say to each other.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use soulbox_driver::{
    BareLayers, DialError, DriverError, GuestStats, LayerHere, Moment, OomKill, SavedLayer,
    VolumeAnswer, VolumeError, VolumeRequest,
};
use soulbox_types::{LayerDigest, MemoryId, NetworkMode, SandboxId, SandboxSpec, VolumeId};

/// The helper's name for a running guest. Never used twice in a helper's life.
pub type GuestNumber = u64;

/// A request and the number under which its answer comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the server, unique among its open calls.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// Everything that the server can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Create a guest.
    Create(Box<SandboxSpec>),
    /// Find the guests of an earlier helper.
    Adopt,
    /// Say why others of its guests were not found. After [`Request::Adopt`].
    Lost,
    /// Connect to a port of a guest. The answer carries the connected socket.
    Dial {
        /// Which guest.
        guest: GuestNumber,
        /// The port inside.
        port: u16,
    },
    /// Read what a guest uses.
    Stats {
        /// Which guest.
        guest: GuestNumber,
    },
    /// Say when each step in the making of a guest was done.
    Moments {
        /// Which guest.
        guest: GuestNumber,
    },
    /// End a guest.
    Kill {
        /// Which guest.
        guest: GuestNumber,
    },
    /// Change what a guest may reach.
    SetNetwork {
        /// Which guest.
        guest: GuestNumber,
        /// All that it may reach from then on.
        network: NetworkMode,
    },
    /// Stop every process of a guest, or let them go on.
    SetFrozen {
        /// Which guest.
        guest: GuestNumber,
        /// Whether they are to stand still.
        frozen: bool,
    },
    /// Make a layer of what a frozen guest has written, and leave it as it is.
    Snapshot {
        /// Which guest.
        guest: GuestNumber,
    },
    /// End a guest and make a layer of what it has written.
    Save {
        /// Which guest.
        guest: GuestNumber,
    },
    /// Do what can be done before a guest stands still for its memory to be written.
    GetReadyToCapture {
        /// Which guest.
        guest: GuestNumber,
        /// The memory.
        memory: MemoryId,
    },
    /// Write the memory of a frozen guest to disk, and leave it as it is.
    Capture {
        /// Which guest.
        guest: GuestNumber,
        /// The memory.
        memory: MemoryId,
    },
    /// Make a guest that goes on from memory on disk.
    Wake {
        /// What it is otherwise.
        spec: Box<SandboxSpec>,
        /// The memory.
        memory: MemoryId,
    },
    /// Make memory durable.
    KeepMemory {
        /// Which.
        memory: MemoryId,
    },
    /// Say whether memory can be written, and which is kept.
    Memories,
    /// Remove memory from disk.
    ForgetMemory {
        /// Which.
        memory: MemoryId,
    },
    /// Say whether the host runs out of memory.
    IsMemoryShort,
    /// Make one layer of several.
    Squash {
        /// Topmost first.
        layers: Vec<LayerDigest>,
    },
    /// Make the layers that images are unpacked on.
    BareLayers,
    /// List the layers that are there.
    AllLayers,
    /// Remove layers that no guest stands on.
    RemoveLayers {
        /// Which.
        layers: Vec<LayerDigest>,
    },
    /// Carry out one request on one volume. Paths in it are resolved beneath the volume's root. The answer may carry an
    /// open file.
    Volume {
        /// Which volume.
        volume: VolumeId,
        /// What is to be done.
        request: VolumeRequest,
    },
    /// Read the certificate that the operator has configured for the server. The server may not read its key's file.
    Certificate,
    /// Have the operator's command make or remove the record by which an authority sees whose the domain is. Its name is
    /// the operator's, too.
    ChallengeRecord {
        /// What is to be done.
        act: RecordAct,
        /// The record's value.
        value: String,
    },
    /// Release what is only prepared, and the place on the host when no guest is left. The last request.
    Shutdown,
}

/// What the helper says: answers to calls, and what happens by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Word {
    /// The end of a call.
    Answer {
        /// Number of the call.
        id: u64,
        /// How it went.
        result: Result<Answer, Refusal>,
    },
    /// A guest has ended.
    Ended {
        /// Which.
        guest: GuestNumber,
    },
    /// The kernel has killed a process of a guest for lack of memory.
    OomKill {
        /// Of which.
        guest: GuestNumber,
        /// The process.
        kill: OomKill,
    },
}

/// What a call has brought about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// A guest runs.
    Created {
        /// Its number from now on.
        guest: GuestNumber,
        /// Its address, when it has a network.
        address: Option<Ipv4Addr>,
    },
    /// The guests that were found.
    Adopted {
        /// Each with its address and what it was created from.
        guests: Vec<(GuestNumber, Option<Ipv4Addr>, SandboxSpec)>,
    },
    /// The guests that were not found, and why; of very many, some.
    Lost {
        /// Each with words that go on from "the sandbox was lost: ".
        sandboxes: Vec<(SandboxId, String)>,
    },
    /// The socket comes with this message.
    Dialled,
    /// A reading.
    Stats(GuestStats),
    /// Of the making of a guest.
    Moments(Vec<Moment>),
    /// What the guest may reach is as it was asked.
    NetworkSet,
    /// Every process of the guest is dead.
    Killed,
    /// The processes stand still, or go on.
    FrozenSet,
    /// Memory is on disk, of this many bytes.
    Captured(u64),
    /// It can be written.
    ReadyToCapture,
    /// Memory is durable.
    MemoryKept,
    /// Whether memory can be written, or why not; and which is kept.
    Memories {
        /// The reason comes with a way out.
        able: Result<(), String>,
        /// In no order.
        kept: Vec<MemoryId>,
    },
    /// Memory is not on disk.
    MemoryForgotten,
    /// Whether the host runs out of memory.
    MemoryIsShort(bool),
    /// What was made of a guest's files, if it had any.
    Saved(Option<SavedLayer>),
    /// The one layer.
    Squashed(SavedLayer),
    /// The layers that images are unpacked on.
    Bare(BareLayers),
    /// The layers that are there; of very many, some.
    Layers(Vec<LayerHere>),
    /// The layers that are gone now.
    Removed(Vec<LayerDigest>),
    /// How a request on a volume went; a file may come with this message.
    Volume(Result<VolumeAnswer, VolumeError>),
    /// The certificate as it is now.
    Certificate(Certificate),
    /// The operator's command says that it is done.
    ChallengeRecordDone,
    /// Everything is released; the helper ends.
    Down,
}

/// What happens to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordAct {
    /// It is to be there, beside others.
    Present,
    /// It is to be gone.
    Cleanup,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The chain, leaf first.
    pub chain: Vec<u8>,
    /// The leaf's private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(…)")
    }
}

/// Why a call failed: the driver's errors in a form that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// [`DriverError::NoSlot`]
    NoSlot,
    /// [`DriverError::Layer`]
    Layer(String, Cause),
    /// [`DriverError::StorageFull`]
    StorageFull,
    /// [`DriverError::Launch`]
    Launch(String, Cause),
    /// [`DriverError::Volume`]
    Volume(String),
    /// [`DriverError::Envd`]
    Envd(String),
    /// [`DriverError::Checkpoint`]
    Checkpoint(String),
    /// [`DriverError::Host`]
    Host(String, Cause),
    /// [`DriverError::Unsupported`]
    Unsupported,
    /// [`DialError::PortClosed`]
    PortClosed,
    /// There is no such guest, or no longer.
    Gone,
    /// The request itself is not acceptable.
    Unacceptable(String),
}

/// An [`io::Error`] that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The kernel's number for it, where there is one.
    pub errno: Option<i32>,
    /// Its text.
    pub text: String,
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error().or_else(|| errno_of(error.kind())),
            text: error.to_string(),
        }
    }
}

/// Errors that were given a text of their own keep their kind only; callers judge by it.
fn errno_of(kind: io::ErrorKind) -> Option<i32> {
    let errno = match kind {
        io::ErrorKind::NotFound => rustix::io::Errno::NOENT,
        io::ErrorKind::PermissionDenied => rustix::io::Errno::PERM,
        io::ErrorKind::StorageFull => rustix::io::Errno::NOSPC,
        io::ErrorKind::TimedOut => rustix::io::Errno::TIMEDOUT,
        _ => return None,
    };
    Some(errno.raw_os_error())
}

impl From<Cause> for io::Error {
    fn from(cause: Cause) -> Self {
        match cause.errno {
            Some(errno) => Self::new(Self::from_raw_os_error(errno).kind(), cause.text),
            None => Self::other(cause.text),
        }
    }
}

impl From<DriverError> for Refusal {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::NoSlot => Self::NoSlot,
            DriverError::Layer { layer, source } => Self::Layer(layer, source.into()),
            DriverError::StorageFull => Self::StorageFull,
            DriverError::Launch { step, source } => Self::Launch(step, source.into()),
            DriverError::Volume { reason } => Self::Volume(reason),
            DriverError::Envd { reason } => Self::Envd(reason),
            DriverError::Checkpoint { reason } => Self::Checkpoint(reason),
            DriverError::Host { operation, source } => Self::Host(operation, source.into()),
            DriverError::Unsupported { .. } => Self::Unsupported,
        }
    }
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        match error {
            DialError::PortClosed { .. } => Self::PortClosed,
            DialError::Gone => Self::Gone,
            DialError::Io { source, .. } => Self::Host("connect".to_owned(), source.into()),
        }
    }
}

impl Refusal {
    /// The error of a driver operation, `operation` being what was tried.
    #[must_use]
    pub fn into_driver_error(self, operation: &'static str) -> DriverError {
        let odd = |text: String| DriverError::Host {
            operation: operation.to_owned(),
            source: io::Error::other(text),
        };
        match self {
            Self::NoSlot => DriverError::NoSlot,
            Self::Layer(layer, cause) => DriverError::Layer {
                layer,
                source: cause.into(),
            },
            Self::StorageFull => DriverError::StorageFull,
            Self::Launch(step, cause) => DriverError::Launch {
                step,
                source: cause.into(),
            },
            Self::Volume(reason) => DriverError::Volume { reason },
            Self::Envd(reason) => DriverError::Envd { reason },
            Self::Checkpoint(reason) => DriverError::Checkpoint { reason },
            Self::Host(operation, cause) => DriverError::Host {
                operation,
                source: cause.into(),
            },
            Self::Unsupported => DriverError::Unsupported { operation },
            Self::PortClosed => odd("the port is closed".to_owned()),
            Self::Gone => odd("the sandbox is not running".to_owned()),
            Self::Unacceptable(why) => odd(format!("the helper does not accept this: {why}")),
        }
    }

    /// The error of a dial.
    #[must_use]
    pub fn into_dial_error(self, port: u16) -> DialError {
        match self {
            Self::PortClosed => DialError::PortClosed { port },
            Self::Gone => DialError::Gone,
            Self::Host(_, cause) => DialError::Io {
                port,
                source: cause.into(),
            },
            other => DialError::Io {
                port,
                source: io::Error::other(other.into_driver_error("connect")),
            },
        }
    }
}

/// Writes a message.
///
/// # Errors
/// Never for our own types; the codec's signature allows it.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(message).map_err(io::Error::other)
}

/// Reads a message that must be exactly these bytes.
///
/// # Errors
/// When they are no such message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message with a tail",
        )),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_nothing_may_follow_them() {
        let call = Call {
            id: 7,
            request: Request::Dial { guest: 3, port: 80 },
        };
        let mut bytes = encode(&call).unwrap();
        assert_eq!(decode::<Call>(&bytes).unwrap(), call);
        bytes.push(0);
        assert!(decode::<Call>(&bytes).is_err());
        assert!(decode::<Call>(&[]).is_err());
    }

    #[test]
    fn errors_keep_what_callers_judge_by() {
        let no_space = || io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        for source in [
            no_space(),
            io::Error::new(io::ErrorKind::StorageFull, "full"),
        ] {
            let text = source.to_string();
            let refusal = Refusal::from(DriverError::Launch {
                step: "exec-envd".to_owned(),
                source,
            });
            let bytes = encode(&refusal).unwrap();
            match decode::<Refusal>(&bytes)
                .unwrap()
                .into_driver_error("create")
            {
                DriverError::Launch { step, source } => {
                    assert_eq!(step, "exec-envd");
                    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
                    assert_eq!(source.to_string(), text);
                }
                other => panic!("{other:?}"),
            }
        }
        let closed = Refusal::from(DialError::PortClosed { port: 1 }).into_dial_error(81);
        assert!(matches!(closed, DialError::PortClosed { port: 81 }));
    }
}
