//! The list of all points. A test kills a server at each of them, so an entry is a promise about the step it stands behind.

/// One place where a process can be made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Operation and step, `<operation>.<step>`. The operation says how a test gets there: `start`, `create`, `timeout`,
    /// `network`, `pause`, `resume`, `kill`, `save`, `volume`, `build`, `webhook`, `acme` or `stop`.
    pub name: &'static str,
    /// How things stand when it is reached.
    pub situation: &'static str,
    /// Whether the step can also be made to fail.
    pub fallible: bool,
}

const fn point(name: &'static str, situation: &'static str) -> Point {
    Point {
        name,
        situation,
        fallible: false,
    }
}

const fn fallible(name: &'static str, situation: &'static str) -> Point {
    Point {
        name,
        situation,
        fallible: true,
    }
}

/// Every point, in the order in which a server reaches them.
pub static POINTS: &[Point] = &[
    // The server takes its place.
    point(
        "start.data-dir-locked",
        "the data directory is ours, nothing else",
    ),
    point(
        "start.claim-drafted",
        "the claim of the block is written, not yet under its name",
    ),
    point("start.claim-written", "the claim of the block is complete"),
    point(
        "start.gateway-up",
        "the gateway's link and address are there",
    ),
    point("start.firewall-up", "the firewall table is there"),
    point(
        "start.database-open",
        "the database is open and its tables are up to date",
    ),
    point(
        "start.secret-drafted",
        "a secret is written, not yet under its name",
    ),
    point(
        "start.secrets-written",
        "secrets and client.env are written",
    ),
    point(
        "start.template-uncommitted",
        "a template is registered, not yet committed",
    ),
    point("start.template-registered", "a template is registered"),
    // It takes over what an earlier one left.
    point(
        "start.remains-found",
        "it is known what runs and what remains; nothing is removed",
    ),
    point(
        "start.remains-ended",
        "processes that belong to nobody have ended",
    ),
    point(
        "start.remains-removed",
        "a directory that belongs to nobody is removed",
    ),
    point("start.adopted", "a sandbox is taken over"),
    point(
        "start.record-removed",
        "the row of a sandbox without a process is deleted",
    ),
    point("start.orphan-killed", "a sandbox without a row has ended"),
    point("start.slot-cgroups-made", "a slot has its cgroups, no jail"),
    point(
        "start.disk-written",
        "the image of a disk is written, no loop device is bound to it",
    ),
    point(
        "start.disk-bound",
        "a loop device is bound to an image, nothing is mounted",
    ),
    point("start.disk-mounted", "a disk is mounted, no slot has it"),
    point("start.slot-made", "a slot is ready for a launch"),
    point("start.ready", "everything listens, nobody has been told"),
    // A sandbox is created.
    point("create.begun", "it has a place in the table, nothing else"),
    point("create.slot-leased", "it has a slot"),
    point(
        "create.directory-made",
        "it has a directory, without anything in it",
    ),
    fallible("create.files-made", "its files are made"),
    fallible("create.limits-set", "its limits are set"),
    fallible(
        "create.process-cloned",
        "its first process exists, no record of it",
    ),
    fallible(
        "create.state-drafted",
        "its state is written, not yet under its name",
    ),
    fallible("create.state-written", "its state has its name"),
    fallible("create.envd-ready", "its envd listens"),
    point(
        "create.guest-made",
        "the driver has made it, there is no row",
    ),
    point("create.row-inserted", "it has a row, nobody can reach it"),
    point(
        "create.route-open",
        "it can be reached, nobody has been told",
    ),
    point("create.answered", "its creator has been answered"),
    point(
        "create.envd-moved",
        "its envd stands in a cgroup of its own",
    ),
    // Its end time is moved, or comes.
    point(
        "timeout.row-written",
        "the new end time is in its row, not in force",
    ),
    point("timeout.due", "its time has come, nothing has been done"),
    // What it may reach is changed.
    point(
        "network.trusted",
        "its programs trust the authority of its new rules, nothing is in force",
    ),
    fallible(
        "network.state-written",
        "its state has the new policy, the kernel the one before",
    ),
    point(
        "network.in-force",
        "the new policy is in force, its row has the one before",
    ),
    point(
        "network.row-written",
        "the new policy is in force and in its row",
    ),
    // A sandbox is paused.
    point(
        "pause.route-closed",
        "nobody comes in any more, all of it runs",
    ),
    point("pause.frozen", "all of it stands still, no record says so"),
    point(
        "pause.files-saved",
        "its files are a layer that no record knows",
    ),
    point(
        "pause.row-written",
        "the record says paused, its processes are there",
    ),
    point(
        "pause.ended",
        "the record says paused, without memory its processes are gone",
    ),
    point("pause.answered", "the caller knows that it is paused"),
    // Its memory goes to disk.
    point(
        "hibernate.captured",
        "its memory is on disk, not yet durable",
    ),
    point(
        "hibernate.synced",
        "all of a memory is durable but for the name of its record",
    ),
    point(
        "hibernate.kept",
        "its memory is durable on disk, no record says so",
    ),
    point(
        "hibernate.row-written",
        "the record says that its memory is on disk, its processes are there",
    ),
    point(
        "hibernate.ended",
        "its memory is on disk, its processes are gone",
    ),
    // And brought back.
    point(
        "wake.recorded",
        "its processes run and the driver knows, the record says on disk",
    ),
    point(
        "wake.guest-back",
        "its processes run, the record says on disk",
    ),
    point(
        "wake.row-written",
        "it runs, and its memory is on disk as well, for nobody",
    ),
    point("resume.thawed", "it runs, the record says paused"),
    point(
        "resume.memory-given-up",
        "the record says paused without memory, its old processes are there",
    ),
    point(
        "resume.guest-made",
        "new processes run, the record says paused",
    ),
    point(
        "resume.row-written",
        "the record says running, nobody can reach it",
    ),
    point("resume.answered", "the caller knows that it runs"),
    // A sandbox is saved and runs on.
    point(
        "snapshot.frozen",
        "all of it stands still, no record says so",
    ),
    point(
        "snapshot.files-saved",
        "it stands still, its files are a layer that no record knows",
    ),
    point(
        "snapshot.captured",
        "it stands still, its memory is on disk, not yet durable",
    ),
    point(
        "snapshot.thawed",
        "it runs on, its files are a layer that no record knows",
    ),
    point(
        "snapshot.memory-kept",
        "its memory is durable on disk, no record knows",
    ),
    point(
        "snapshot.row-written",
        "the snapshot can be used, nobody knows",
    ),
    // And branches.
    point("fork.saved", "its files are a layer, no fork has begun"),
    // A sandbox ends.
    point("kill.begun", "it is on its way out, its route is open"),
    point("kill.route-closed", "nobody can reach it, it runs"),
    point("kill.row-deleted", "its row is gone"),
    point("kill.signal-sent", "its first process has got the signal"),
    point(
        "kill.process-ended",
        "its processes have ended, everything else is there",
    ),
    point("kill.files-half-removed", "some of its files are gone"),
    point(
        "kill.disk-unmounted",
        "its disk is unmounted, the image is there",
    ),
    point("kill.files-removed", "its files are gone"),
    point(
        "kill.cgroups-removed",
        "its cgroups are gone, its slot is taken",
    ),
    point("kill.slot-released", "its slot is free"),
    point(
        "kill.ended",
        "row and process are gone, nobody has been told",
    ),
    point("kill.answered", "whoever asked has been answered"),
    // What a sandbox has written becomes a layer, or a layer goes.
    point(
        "save.process-ended",
        "its processes have ended, nothing has been made of its files",
    ),
    point("save.work-begun", "there is a directory for the layer"),
    fallible(
        "save.files-copied",
        "its files are copied, the layer has no digest",
    ),
    point(
        "save.content-durable",
        "the layer is on stable storage, without a name",
    ),
    point(
        "save.marker-written",
        "the layer has a marker, it is not in its place",
    ),
    point(
        "save.layer-placed",
        "the layer is there, nobody has been told",
    ),
    point(
        "save.layer-taken-away",
        "a layer is out of its place, its marker is there",
    ),
    point(
        "save.marker-removed",
        "nothing of a layer is in its place, its files are not removed",
    ),
    // A volume is made, or goes.
    point(
        "volume.image-drafted",
        "the image of a volume is written, not yet under its name",
    ),
    point(
        "volume.image-made",
        "a volume is there, its row says that it is being made",
    ),
    point(
        "volume.row-removed",
        "the row of a volume says that it is gone, its image is there",
    ),
    point(
        "volume.image-removed",
        "the image of a volume is gone, its row is there",
    ),
    // A template is built.
    point(
        "build.image-unpacked",
        "the layers of an image are unpacked in a sandbox",
    ),
    point(
        "build.image-saved",
        "the image is a layer that nobody has noted",
    ),
    point("build.based", "it is known what the build goes on from"),
    point(
        "build.step-ran",
        "a step has done its work, nothing is saved",
    ),
    point(
        "build.step-saved",
        "the layer of a step is there, no cache knows it",
    ),
    point("build.step-done", "the cache knows the step"),
    point("build.squashed", "its layers are one"),
    point(
        "build.captured",
        "its memory is written, nobody has asked to keep it",
    ),
    point(
        "build.memory-kept",
        "its memory is durable, no record has it",
    ),
    point(
        "build.journal-closed",
        "it is done and its log whole, its status is not written",
    ),
    point(
        "build.status-written",
        "its status is written, the table of builds knows it still",
    ),
    // Somebody is told of an event.
    point(
        "webhook.answered",
        "the receiver has it, its row says that it waits",
    ),
    // An authority is asked for a certificate.
    point(
        "acme.account-kept",
        "the account's key is kept, the authority has not heard of it",
    ),
    point(
        "acme.record-noted",
        "the record of a challenge is noted, not made",
    ),
    point(
        "acme.record-made",
        "the record is there, the authority is not told",
    ),
    point(
        "acme.issued",
        "a certificate is issued, it is kept nowhere, and the records are there",
    ),
    point(
        "acme.certificate-kept",
        "the certificate is kept, not used, and the records are there",
    ),
    // The server stops.
    point("stop.begun", "it has been asked to stop"),
    point("stop.edge-closed", "nobody is connected any more"),
    point("stop.sandboxes-settled", "no create or kill is under way"),
    point("stop.database-closed", "the database is closed"),
    point(
        "stop.driver-stopped",
        "slots that were only prepared are gone",
    ),
    point("stop.firewall-removed", "the firewall table is gone"),
    point("stop.gateway-removed", "the gateway is gone"),
    point("stop.cgroups-removed", "the cgroups of the block are gone"),
    point("stop.claim-released", "the claim of the block is gone"),
];

/// The place of a name in the table.
pub(crate) const fn find(name: &str) -> Option<usize> {
    let mut number = 0;
    while number < POINTS.len() {
        if same(POINTS[number].name.as_bytes(), name.as_bytes()) {
            return Some(number);
        }
        number += 1;
    }
    None
}

/// `==`, which is not const for slices.
const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}
