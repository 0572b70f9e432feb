//! Brings records and guests into agreement: at the start, every half minute, and when somebody asks for it.
//!
//! A comparison takes no input and may run at any time; what it does twice does no harm. So a crash, a lost message and a
//! record deleted by hand are all the same case.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use soulbox_driver::Guest;
use soulbox_fault as fault;
use soulbox_store::SandboxRecord;
use soulbox_types::lifecycle::State;
use soulbox_types::{EndReason, SandboxId, TeamId};

use crate::actor::{Actor, Message};
use crate::instruments::KillReason;
use crate::journal::{self, About};
use crate::live::{Handle, RunningSandbox};
use crate::node::{Node, store_error};
use crate::pausing::{self, PausedSandbox};
use crate::transitions::kill_guest;
use crate::{SandboxError, hibernation, instruments};

/// Time between two comparisons that nobody has asked for.
const INTERVAL: Duration = Duration::from_secs(30);
/// Orphans killed at the same time, so that a restart does not take every CPU.
const ORPHANS_AT_ONCE: usize = 16;
/// When an orphan is tried again, the last one over and over: a process in uninterruptible sleep may come back after a
/// while, and nobody else would look for it before the next start.
const ORPHAN_RETRIES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// Why a sandbox is lost when the driver does not know better.
const NO_GUEST: &str = "nothing of it is running";

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    /// Records of running sandboxes without a guest.
    records: Vec<(SandboxId, TeamId)>,
    /// Sandboxes that must end: without a record, or left over from a kill that failed.
    sandboxes: Vec<SandboxId>,
}

/// Compares. `before` are the sandboxes of the table before the records were read, `after` those of it after.
fn compare(
    before: &HashMap<SandboxId, State>,
    records: &[(SandboxId, TeamId)],
    after: &HashMap<SandboxId, State>,
) -> Difference {
    let recorded: HashSet<&SandboxId> = records.iter().map(|(id, _)| id).collect();
    let must_end = |(id, state): (&SandboxId, &State)| match state {
        // What ran before the records were read has been recorded before.
        State::Running => !recorded.contains(id),
        State::Failed => true,
        State::Creating
        | State::Pausing
        | State::Paused
        | State::Resuming
        | State::Snapshotting
        | State::Killing
        | State::Gone => false,
    };
    let mut sandboxes: Vec<SandboxId> = before
        .iter()
        .filter(|entry| must_end(*entry))
        .map(|(id, _)| id.clone())
        .collect();
    sandboxes.sort();
    // What is being created is in the table before it is recorded.
    let records = records
        .iter()
        .filter(|(id, _)| !after.contains_key(id))
        .cloned()
        .collect();
    Difference { records, sandboxes }
}

fn states(handles: &[Arc<Handle>]) -> HashMap<SandboxId, State> {
    handles
        .iter()
        .map(|handle| (handle.id.clone(), handle.published().state))
        .collect()
}

/// Takes over what an earlier server left: adopts guests with a record, kills those without, forgets records without.
pub(crate) async fn take_over(node: &Arc<Node>) -> Result<(), SandboxError> {
    let guests = node
        .driver
        .adopt()
        .await
        .map_err(|error| SandboxError::Adopt(Arc::new(error)))?;
    let records = node
        .store
        .all_with_guest()
        .await
        .map_err(store_error("read the sandboxes with a guest"))?;
    let mut records: HashMap<SandboxId, SandboxRecord> = records
        .into_iter()
        .map(|record| (record.id.clone(), record))
        .collect();
    let (mut orphans, mut adopted) = (Vec::new(), 0);
    for guest in guests {
        match records.remove(&guest.spec().id) {
            Some(record) => {
                adopt(node, record, guest).await;
                adopted += 1;
            }
            None => orphans.push(guest),
        }
    }
    let kept = hibernation::on_disk(node).await?;
    let is_away = |record: &SandboxRecord| {
        let memory = record
            .pause
            .as_ref()
            .and_then(|pause| pause.memory.as_ref());
        memory.is_some_and(|memory| kept.contains(memory))
    };
    records.retain(|_, record| !is_away(record));
    instruments::adopted(adopted);
    tracing::info!(
        adopted,
        orphans = orphans.len(),
        lost = records.len(),
        "took over what an earlier server left"
    );
    let lost: HashMap<SandboxId, String> = node.driver.lost().into_iter().collect();
    for record in records.values_mut() {
        let reason = lost.get(&record.id).map_or(NO_GUEST, String::as_str);
        if !pausing::keep_files(node, record, reason).await? {
            remove_record(node, &record.id, &record.team, reason).await?;
        }
        fault::point!("start.record-removed");
    }
    if !orphans.is_empty() {
        node.tasks
            .spawn("orphans", kill_orphans(node.clone(), orphans));
    }
    Ok(())
}

/// Takes over a guest: what is recorded as paused stands still, what is recorded as running runs. A server that has died
/// in between may have left it the other way.
async fn adopt(node: &Arc<Node>, record: SandboxRecord, guest: Arc<dyn Guest>) {
    let record = hibernation::is_here(node, record).await;
    let is_paused = record.pause.is_some();
    let set = if is_paused {
        guest.freeze().await
    } else {
        guest.thaw().await
    };
    if let Err(error) = set {
        let error = soulbox_telemetry::chain(&error);
        tracing::error!(sandbox.id = %record.id, error, "a sandbox is not as its record says");
    }
    let run = RunningSandbox {
        record: Arc::new(record),
        guest,
    };
    if is_paused {
        let place = node.live.adopt(State::Paused, run.clone());
        let paused = PausedSandbox {
            record: run.record,
            guest: Some(run.guest),
        };
        node.tasks
            .spawn("sandbox", Actor::paused(node.clone(), place, paused).live());
    } else {
        let place = node.live.adopt(State::Running, run.clone());
        node.tasks
            .spawn("sandbox", Actor::adopt(node.clone(), place, run).live());
    }
    fault::point!("start.adopted");
}

async fn kill_orphans(node: Arc<Node>, orphans: Vec<Arc<dyn Guest>>) {
    futures_util::stream::iter(orphans)
        .for_each_concurrent(ORPHANS_AT_ONCE, |guest| kill_orphan(&node, guest))
        .await;
}

/// Sees to it that a guest ends for which no actor answers: for as long as the server runs, after that the next one.
pub(crate) fn give_up(node: &Arc<Node>, guest: Arc<dyn Guest>) {
    let killer = node.clone();
    node.tasks
        .spawn("orphan", async move { kill_orphan(&killer, guest).await });
}

async fn kill_orphan(node: &Node, guest: Arc<dyn Guest>) {
    let id = guest.spec().id.clone();
    let last = ORPHAN_RETRIES[ORPHAN_RETRIES.len() - 1];
    for pause in ORPHAN_RETRIES.into_iter().chain(std::iter::repeat(last)) {
        match kill_guest(guest.as_ref()).await {
            Ok(()) => {
                fault::point!("start.orphan-killed");
                instruments::killed(KillReason::Reconciled);
                tracing::warn!(sandbox.id = %id, "guest without record killed");
                return;
            }
            Err(error) => {
                let error = soulbox_telemetry::chain(&error);
                tracing::error!(sandbox.id = %id, error, "guest without record not killed");
            }
        }
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn remove_record(
    node: &Node,
    id: &SandboxId,
    team: &TeamId,
    reason: &str,
) -> Result<(), SandboxError> {
    if node
        .store
        .end_sandbox(id, EndReason::Lost, node.now())
        .await
        .map_err(store_error("remove a record without guest"))?
    {
        tracing::warn!(sandbox.id = %id, reason, "record without guest removed");
        node.store
            .log(journal::lost(About { id, team }, node.now(), reason));
    }
    Ok(())
}

/// Compares from time to time and when asked, until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = node.reconcile_wanted.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
        match pass(&node).await {
            Ok(()) => instruments::reconciled("ok"),
            Err(error) => {
                instruments::reconciled("error");
                tracing::error!(error = %soulbox_telemetry::chain(&error), "records and guests not compared");
            }
        }
    }
}

/// Whether a sandbox that must end for want of a record has one after all. The list of records is read from one part of
/// the database and this from another: one damaged part kills nobody.
async fn is_recorded(node: &Node, handle: &Handle) -> Result<bool, SandboxError> {
    if handle.published().state != State::Running {
        return Ok(false);
    }
    let record = node.store.get_sandbox(&handle.team, &handle.id).await;
    let found = record.map_err(store_error("read a sandbox"))?.is_some();
    if found {
        tracing::error!(sandbox.id = %handle.id, "this sandbox has a record and is missing in the list of records. FIX: restore soulbox.db from a backup");
    }
    Ok(found)
}

async fn pass(node: &Node) -> Result<(), SandboxError> {
    let before = states(&node.live.all());
    let records = node
        .store
        .running_ids()
        .await
        .map_err(store_error("read the running sandboxes"))?;
    let after = states(&node.live.all());
    let difference = compare(&before, &records, &after);
    for (id, team) in &difference.records {
        remove_record(node, id, team, NO_GUEST).await?;
    }
    for id in &difference.sandboxes {
        let Some(handle) = node.live.get(id) else {
            continue;
        };
        if is_recorded(node, &handle).await? {
            continue;
        }
        let kill = Message::Kill {
            reason: KillReason::Reconciled,
            reply: None,
        };
        // An actor that is gone has ended its sandbox; a busy one is asked again next time.
        if handle.mailbox.try_send(kill).is_err() {
            tracing::debug!(sandbox.id = %id, "sandbox is busy; compared again later");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SandboxId {
        text.parse().unwrap()
    }

    fn table(entries: &[(&str, State)]) -> HashMap<SandboxId, State> {
        entries
            .iter()
            .map(|(text, state)| (id(text), *state))
            .collect()
    }

    #[test]
    fn differences() {
        let team = TeamId::random();
        let check = |before: &[(&str, State)],
                     records: &[&str],
                     after: &[(&str, State)],
                     want: (&[&str], &[&str])| {
            let records: Vec<_> = records
                .iter()
                .map(|text| (id(text), team.clone()))
                .collect();
            let got = compare(&table(before), &records, &table(after));
            let got_records: Vec<_> = got.records.iter().map(|(id, _)| id.as_str()).collect();
            let got_sandboxes: Vec<_> = got.sandboxes.iter().map(SandboxId::as_str).collect();
            assert_eq!((got_records.as_slice(), got_sandboxes.as_slice()), want);
        };
        let running = [("ia", State::Running), ("ib", State::Running)];
        check(&running, &["ia", "ib"], &running, (&[], &[]));
        check(&running, &["ia"], &running, (&[], &["ib"]));
        check(&running, &["ia", "ib", "ic"], &running, (&["ic"], &[]));
        // Created meanwhile: in the table, perhaps recorded.
        check(&[], &["ia"], &[("ia", State::Creating)], (&[], &[]));
        check(
            &[("ia", State::Creating)],
            &[],
            &[("ia", State::Running)],
            (&[], &[]),
        );
        // Killed meanwhile: perhaps still recorded; removing the record once more does no harm.
        check(&[("ia", State::Running)], &["ia"], &[], (&["ia"], &[]));
        check(&[("ia", State::Killing)], &[], &[], (&[], &[]));
        check(
            &[("ia", State::Failed)],
            &[],
            &[("ia", State::Failed)],
            (&[], &["ia"]),
        );
        check(
            &[("ia", State::Failed)],
            &["ia"],
            &[("ia", State::Failed)],
            (&[], &["ia"]),
        );
    }
}
