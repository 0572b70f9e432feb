//! Both sides over a real socket pair, with the fake driver behind the helper.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use soulbox_driver::testing::FakeDriver;
use soulbox_driver::{DialError, Doorkeeper, Driver, DriverError, OomKill};
use soulbox_helper::message::{Call, Request, encode};
use soulbox_helper::{Certificate, Channel, Ending, Operator, RecordAct, RemoteDriver, serve};
use soulbox_types::{
    LayerDigest, Limits, MemoryId, NetworkMode, SandboxId, SandboxSpec, TemplateId, TemplateImage,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// Wants to know nothing.
#[derive(Debug)]
struct Nobody;

impl Doorkeeper for Nobody {
    fn enters(&self, _: Ipv4Addr, _: &SandboxId, _: &NetworkMode) {}
    fn leaves(&self, _: Ipv4Addr, _: &SandboxId) {}
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        image: TemplateImage {
            template_id: TemplateId::random(),
            layers: vec![LayerDigest::from_bytes([1; 32])],
            default_user: "user".to_owned(),
            default_workdir: None,
        },
        limits: Limits::STANDARD,
        network: NetworkMode::Internet,
        env_vars: BTreeMap::new(),
        envd_access_token: "token".to_owned(),
        volumes: Vec::new(),
        team: None,
    }
}

/// The helper has a runtime of its own, which can end like a process does: with everything in it.
struct Pair {
    fake: FakeDriver,
    remote: RemoteDriver,
    helper: Option<Runtime>,
}

impl Pair {
    fn end_helper(&mut self) {
        if let Some(helper) = self.helper.take() {
            helper.shutdown_background();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.end_helper();
    }
}

/// Nothing is configured.
struct Nothing;

impl Operator for Nothing {
    fn certificate(&self) -> io::Result<Certificate> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn challenge_record(&self, _act: RecordAct, _value: &str) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn stop(&self) {}
}

fn nothing() -> Arc<dyn Operator> {
    Arc::new(Nothing)
}

/// A pair whose helper has been asked what runs, as every server does first.
async fn pair() -> Pair {
    let pair = unasked_pair();
    pair.remote.adopt().await.unwrap();
    pair
}

fn unasked_pair() -> Pair {
    let fake = FakeDriver::new();
    let (ours, theirs) = soulbox_linux::socket::seqpacket_pair().unwrap();
    let driver: Arc<dyn Driver> = Arc::new(fake.clone());
    let helper = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    helper.spawn(async move {
        let channel = Channel::new(theirs).unwrap();
        serve(channel, driver, nothing(), async || Ok(())).await
    });
    Pair {
        fake,
        remote: RemoteDriver::new(Channel::new(ours).unwrap(), "namespace", Arc::new(Nobody)),
        helper: Some(helper),
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .unwrap_or_else(|_| panic!("{what} does not happen"))
}

#[tokio::test]
async fn a_guest_is_used_through_the_helper_as_if_it_were_here() {
    let pair = pair().await;
    let wanted = spec();
    let guest = pair.remote.create(&wanted).await.unwrap();
    assert_eq!(guest.spec(), &wanted);
    let fake = pair.fake.guest(&wanted.id).unwrap();

    let mut stream = guest.dial(49983).await.unwrap();
    let mut other = fake.accept().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    other.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");

    let reading = soulbox_driver::GuestStats {
        pids: 7,
        oom_kills: 1,
        ..Default::default()
    };
    fake.set_stats(reading);
    assert_eq!(guest.stats().await.unwrap(), reading);

    let mut kills = guest.oom_kills();
    let killed = OomKill {
        name: "python3".to_owned(),
        pid: Some(12),
    };
    fake.tell_oom_kill(killed.clone());
    assert_eq!(soon("the report", kills.recv()).await.unwrap(), killed);

    guest.kill().await.unwrap();
    soon("the end", guest.ended()).await;
    assert!(pair.fake.guests().is_empty());
    assert!(matches!(guest.dial(1).await, Err(DialError::Gone)));
    guest.kill().await.unwrap();
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_told() {
    let pair = pair().await;
    let guest = pair.remote.create(&spec()).await.unwrap();
    pair.fake.guests()[0].exit();
    soon("the end", guest.ended()).await;
}

#[tokio::test]
async fn guests_of_an_earlier_helper_are_found() {
    let pair = unasked_pair();
    let left = spec();
    pair.fake.add_guest(left.clone());
    let guests = pair.remote.adopt().await.unwrap();
    assert_eq!(guests.len(), 1);
    assert_eq!(guests[0].spec(), &left);
    guests[0].kill().await.unwrap();
    soon("the end", guests[0].ended()).await;
}

#[tokio::test]
async fn errors_arrive_as_what_they_are() {
    let pair = pair().await;
    pair.fake.fail_next_create(DriverError::StorageFull);
    let error = pair.remote.create(&spec()).await.unwrap_err();
    assert!(matches!(error, DriverError::StorageFull), "{error:?}");
}

#[tokio::test]
async fn a_request_out_of_bounds_never_reaches_the_driver() {
    let pair = pair().await;
    let mut wanted = spec();
    wanted.env_vars.insert("A".into(), "x".repeat(2_000_000));
    let error = pair.remote.create(&wanted).await.unwrap_err();
    let DriverError::Host { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(source.to_string().contains("does not accept"), "{source}");
    assert!(pair.fake.begun().is_empty());
}

#[tokio::test]
async fn an_id_that_is_a_path_is_no_message_at_all() {
    let wanted = spec();
    let call = Call {
        id: 1,
        request: Request::Create(Box::new(wanted.clone())),
    };
    let mut bytes = encode(&call).unwrap();
    let id = wanted.id.as_str().as_bytes();
    let place = bytes.windows(id.len()).position(|w| w == id).unwrap();
    bytes[place..place + id.len()].copy_from_slice(&b"../../../../../etc/passwd"[..id.len()]);

    let fake = FakeDriver::new();
    let (ours, theirs) = Channel::pair().unwrap();
    let helper = tokio::spawn(serve(
        theirs,
        Arc::new(fake.clone()),
        nothing(),
        async || Ok(()),
    ));
    ours.send(&bytes, &[]).await.unwrap();
    let ending = soon("the helper's end", helper).await.unwrap();
    assert_eq!(ending.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(fake.begun().is_empty());
}

#[tokio::test]
async fn a_guest_that_nobody_waits_for_does_not_stay() {
    let pair = pair().await;
    pair.fake.hold_creates();
    let wanted = spec();
    let given_up = tokio::time::timeout(Duration::from_millis(50), pair.remote.create(&wanted));
    assert!(given_up.await.is_err());
    pair.fake.release_creates();
    soon("the end of the guest", async {
        // Two events of another process without a sign of their own; each turn is a look.
        while pair.fake.begun().is_empty() || !pair.fake.guests().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // It was made before it was ended.
    assert_eq!(pair.fake.begun(), [wanted.id]);
}

#[tokio::test]
async fn a_stop_releases_and_ends_the_helper() {
    let fake = FakeDriver::new();
    let (ours, theirs) = Channel::pair().unwrap();
    let (told, release) = tokio::sync::oneshot::channel();
    let helper = tokio::spawn(serve(theirs, Arc::new(fake), nothing(), async move || {
        told.send(())
            .map_err(|()| io::Error::other("nobody listens"))
    }));
    let remote = RemoteDriver::new(ours, "namespace", Arc::new(Nobody));
    soon("the stop", remote.shutdown()).await;
    release.await.unwrap();
    assert_eq!(
        soon("the end", helper).await.unwrap().unwrap(),
        Ending::Down
    );
}

#[tokio::test]
async fn when_the_server_ends_so_does_the_helper_and_guests_stay() {
    let fake = FakeDriver::new();
    let (ours, theirs) = Channel::pair().unwrap();
    let helper = tokio::spawn(serve(
        theirs,
        Arc::new(fake.clone()),
        nothing(),
        async || Ok(()),
    ));
    fake.add_guest(spec());
    drop(ours);
    let ending = soon("the end", helper).await.unwrap().unwrap();
    assert_eq!(ending, Ending::ServerGone);
    assert_eq!(fake.guests().len(), 1);
}

#[tokio::test]
async fn when_the_helper_ends_calls_fail_and_guests_are_not_called_dead() {
    let mut pair = pair().await;
    let guest = pair.remote.create(&spec()).await.unwrap();
    pair.fake.hold_creates();
    let (remote, wanted) = (pair.remote.clone(), spec());
    let open = tokio::spawn(async move { remote.create(&wanted).await });
    pair.end_helper();
    soon("the end of the helper", pair.remote.helper_gone()).await;
    assert!(open.await.unwrap().is_err());
    assert!(guest.stats().await.is_err());
    assert!(guest.kill().await.is_err());
    let ended = tokio::time::timeout(Duration::from_millis(50), guest.ended());
    assert!(ended.await.is_err(), "a guest without a helper runs on");
}

#[tokio::test]
async fn what_runs_is_found_once_and_first() {
    let pair = unasked_pair();
    assert!(pair.remote.create(&spec()).await.is_err());
    assert!(pair.fake.begun().is_empty());
    pair.fake.fail_next_create(DriverError::StorageFull);
    assert!(pair.remote.adopt().await.is_err(), "told to fail");
    pair.remote.adopt().await.unwrap();
    assert!(pair.remote.adopt().await.is_err());
    pair.remote.create(&spec()).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_cannot_be_made_where_one_is() {
    let pair = unasked_pair();
    let left = spec();
    pair.fake.add_guest(left.clone());
    let guests = pair.remote.adopt().await.unwrap();
    assert!(pair.remote.create(&left).await.is_err());
    let wanted = spec();
    pair.fake.fail_next_create(DriverError::StorageFull);
    assert!(pair.remote.create(&wanted).await.is_err(), "told to fail");
    pair.remote.create(&wanted).await.unwrap();
    assert!(pair.remote.create(&wanted).await.is_err());
    guests[0].kill().await.unwrap();
    pair.remote.create(&left).await.unwrap();
}

#[tokio::test]
async fn memory_goes_to_disk_and_guests_are_made_of_it_through_the_helper() {
    let pair = pair().await;
    pair.remote.hibernation().await.unwrap();
    let (wanted, memory) = (spec(), MemoryId::random());
    let guest = pair.remote.create(&wanted).await.unwrap();
    let refused = guest.capture(&memory).await.unwrap_err();
    let reason =
        matches!(&refused, DriverError::Checkpoint { reason } if reason == "it is not frozen");
    assert!(reason, "{refused}");
    guest.get_ready_to_capture(&memory).await.unwrap();
    guest.freeze().await.unwrap();
    guest.capture(&memory).await.unwrap();
    assert!(pair.remote.memories().await.unwrap().is_empty());
    pair.remote.keep_memory(&memory).await.unwrap();
    let kept = pair.remote.memories().await.unwrap();
    assert_eq!(kept, std::slice::from_ref(&memory));
    let other = spec();
    let back = pair.remote.wake(&other, &memory).await.unwrap();
    assert_eq!(back.spec(), &other);
    assert!(
        pair.remote.wake(&other, &memory).await.is_err(),
        "it is there"
    );
    pair.remote.forget_memory(&memory).await.unwrap();
    assert!(pair.remote.memories().await.unwrap().is_empty());
    assert!(pair.remote.keep_memory(&memory).await.is_err());
    assert!(pair.remote.wake(&spec(), &memory).await.is_err());
    assert!(!pair.remote.memory_is_short().await.unwrap());
    pair.fake.set_memory_is_short(true);
    assert!(pair.remote.memory_is_short().await.unwrap());
}

#[tokio::test]
async fn layers_are_made_and_removed_through_the_helper() {
    let pair = pair().await;
    let (one, other) = (spec(), spec());
    let mut layers = Vec::new();
    for spec in [&one, &other] {
        let guest = pair.remote.create(spec).await.unwrap();
        layers.push(guest.save().await.unwrap().unwrap().digest);
        soon("the end", guest.ended()).await;
        assert!(guest.save().await.is_err(), "its files are gone");
    }
    assert_eq!(pair.fake.layers(), layers);

    let whole = pair.remote.squash(&layers).await.unwrap();
    assert!(!layers.contains(&whole.digest));

    let mut standing = spec();
    standing.image.layers = vec![whole.digest];
    let guest = pair.remote.create(&standing).await.unwrap();
    layers.push(whole.digest);
    let removed = pair.remote.remove_layers(&layers).await.unwrap();
    assert_eq!(removed, layers[..2]);
    guest.kill().await.unwrap();
    let removed = pair.remote.remove_layers(&layers).await.unwrap();
    assert_eq!(removed, [whole.digest]);
}

#[tokio::test]
async fn a_guest_that_wrote_nothing_leaves_no_layer() {
    let pair = pair().await;
    pair.fake.next_save(Ok(None));
    let guest = pair.remote.create(&spec()).await.unwrap();
    assert_eq!(guest.save().await.unwrap(), None);
    pair.fake.next_save(Err(DriverError::StorageFull));
    let guest = pair.remote.create(&spec()).await.unwrap();
    let error = guest.save().await.unwrap_err();
    assert!(matches!(error, DriverError::StorageFull), "{error:?}");
    soon("the end", guest.ended()).await;
    assert!(pair.fake.layers().is_empty());
}

#[tokio::test]
async fn requests_for_layers_are_judged() {
    let pair = unasked_pair();
    let layer = |n| LayerDigest::from_bytes([n; 32]);
    // What runs is not known yet, and with it what must stay.
    assert!(pair.remote.remove_layers(&[layer(1)]).await.is_err());
    pair.remote.adopt().await.unwrap();
    assert!(
        pair.remote
            .remove_layers(&[layer(1)])
            .await
            .unwrap()
            .is_empty()
    );
    for layers in [&[][..], &[layer(1)], &[layer(1), layer(1)]] {
        let DriverError::Host { source, .. } = pair.remote.squash(layers).await.unwrap_err() else {
            panic!("{layers:?}");
        };
        assert!(source.to_string().contains("does not accept"), "{source}");
    }
    assert!(pair.remote.remove_layers(&[]).await.is_err());
    let missing = pair.remote.squash(&[layer(1), layer(2)]).await.unwrap_err();
    assert!(matches!(missing, DriverError::Layer { .. }), "{missing:?}");
}

/// Counts how often the certificate was read, and does what it is told to the records.
#[derive(Default)]
struct Counting {
    reads: std::sync::atomic::AtomicU8,
    records: std::sync::Mutex<Vec<String>>,
}

impl Operator for Counting {
    fn certificate(&self) -> io::Result<Certificate> {
        let number = self
            .reads
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Certificate {
            chain: vec![number],
            key: Vec::new(),
        })
    }

    fn challenge_record(&self, act: RecordAct, value: &str) -> io::Result<()> {
        let mut records = self.records.lock().unwrap();
        match act {
            RecordAct::Present => records.push(value.to_owned()),
            RecordAct::Cleanup => match records.iter().position(|one| one == value) {
                Some(at) => drop(records.remove(at)),
                None => return Err(io::Error::other("no such record")),
            },
        }
        Ok(())
    }

    fn stop(&self) {
        self.records.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn the_certificate_is_read_anew_each_time() {
    let (ours, theirs) = Channel::pair().unwrap();
    let fake = Arc::new(FakeDriver::new());
    let operator = Arc::new(Counting::default());
    let helper = tokio::spawn(serve(theirs, fake, operator, async || Ok(())));
    let remote = RemoteDriver::new(ours, "namespace", Arc::new(Nobody));
    for number in 0..3 {
        assert_eq!(remote.certificate().await.unwrap().chain, [number]);
    }
    remote.shutdown().await;
    soon("the end", helper).await.unwrap().unwrap();
}

#[tokio::test]
async fn records_have_values_that_mean_nothing_to_a_shell() {
    let (ours, theirs) = Channel::pair().unwrap();
    let operator = Arc::new(Counting::default());
    let driver = Arc::new(FakeDriver::new());
    let told = Arc::clone(&operator) as Arc<dyn Operator>;
    let helper = tokio::spawn(serve(theirs, driver, told, async || Ok(())));
    let remote = RemoteDriver::new(ours, "namespace", Arc::new(Nobody));
    let digest = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
    let record = |act, value: &str| {
        let value = value.to_owned();
        let remote = &remote;
        async move { remote.challenge_record(act, &value).await }
    };
    record(RecordAct::Present, digest).await.unwrap();
    assert_eq!(*operator.records.lock().unwrap(), [digest]);
    let spaced = digest.replace('e', " ");
    for value in ["", "short", &spaced, &"$".repeat(43), &"a".repeat(44)] {
        let error = record(RecordAct::Present, value).await.unwrap_err();
        assert!(
            error.to_string().contains("run acme_dns_command"),
            "{error}"
        );
    }
    assert_eq!(*operator.records.lock().unwrap(), [digest]);
    record(RecordAct::Cleanup, digest).await.unwrap();
    assert!(record(RecordAct::Cleanup, digest).await.is_err());
    record(RecordAct::Present, digest).await.unwrap();
    remote.shutdown().await;
    soon("the end", helper).await.unwrap().unwrap();
    let left = operator.records.lock().unwrap();
    assert!(left.is_empty(), "the operator was told to stop");
}
