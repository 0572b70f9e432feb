//! Dropping capabilities.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// Highest capability number that may exist; kernels refuse the ones they do not have.
const LAST: u8 = 63;

/// Keeps only the named capabilities in the effective, permitted and bounding sets of this thread, and none in the
/// inheritable and ambient sets.
///
/// # Errors
/// When the kernel refuses, for example for want of `CAP_SETPCAP`.
pub fn keep_only(keep: &[u8]) -> io::Result<()> {
    clear_ambient_capability_set()?;
    for number in 0..=LAST {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(&number) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let kept = keep
        .iter()
        .filter(|number| **number <= LAST)
        .fold(CapabilitySet::empty(), |set, number| {
            set | CapabilitySet::from_bits_retain(1 << number)
        });
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Becomes another user and group, without any other groups, and keeps every capability that this thread has, also for
/// the program that it becomes.
///
/// # Errors
/// When the kernel refuses.
pub fn become_with_all(id: u32) -> io::Result<()> {
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    let gid = Gid::from_raw(id);
    set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(id);
    set_thread_res_uid(uid, uid, uid)?;
    let permitted = rustix::thread::capabilities(None)?.permitted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: permitted,
            permitted,
            inheritable: permitted,
        },
    )?;
    for capability in permitted.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Acts on file systems as another user and group, with all capabilities kept.
///
/// An overlay remembers who mounted it and works on its upper layer as that user, who must have a name in the layer's
/// id map: the host's root has none in a sandbox's.
///
/// # Errors
/// When the kernel does not take the ids or the capabilities.
pub fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: setfsgid(2) takes an integer and changes the calling thread only.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: setfsuid(2) takes an integer and changes the calling thread only.
    unsafe { libc::setfsuid(uid) };
    // The calls answer with the previous id and never with an error; asking for an invalid id tells the present one.
    // SAFETY: as above.
    let now_gid = unsafe { libc::setfsgid(u32::MAX) };
    // SAFETY: as above.
    let now_uid = unsafe { libc::setfsuid(u32::MAX) };
    if now_uid.cast_unsigned() != uid || now_gid.cast_unsigned() != gid {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    // Leaving uid 0 has taken the file-system capabilities out of the effective set (capabilities(7)).
    raise_effective()
}

/// Acts as another user while `action` runs, with all capabilities kept. The real user stays root.
///
/// # Errors
/// When the kernel does not take the id or the capabilities, or `action` fails.
pub(crate) fn with_effective_uid<T>(
    uid: u32,
    action: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid), Uid::ROOT)?;
    // Leaving uid 0 has emptied the effective set (capabilities(7)); coming back fills it.
    let result = raise_effective().and_then(|()| action());
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    result
}

fn raise_effective() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(set_capabilities(None, sets)?)
}
