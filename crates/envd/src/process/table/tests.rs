use super::*;
use crate::process::exit_status::end_event;
use crate::reaper::Exit;

fn process(table: &Table, number: i32, tag: Option<&str>) -> Arc<Process> {
    let process = Arc::new(Process::new(
        Pid::from_raw(number).unwrap(),
        ProcessConfig::default(),
        tag.map(str::to_owned),
        CancellationToken::new(),
        table.open_tape(),
    ));
    table.insert(Arc::clone(&process));
    process
}

fn end() -> Arc<EndEvent> {
    Arc::new(end_event(Exit::Code(0), None))
}

fn find(table: &Table, selector: &Selector) -> Option<Found> {
    table.find(selector, OUTPUT_RETENTION)
}

async fn write(process: &Process, kind: Kind, data: &'static str) {
    process
        .publish(kind, Bytes::from_static(data.as_bytes()))
        .await;
}

async fn chunk(heard: &mut Heard) -> (u64, Kind, String) {
    match heard.next().await {
        Some(Event::Output(chunk)) => {
            let text = String::from_utf8(chunk.data.to_vec()).unwrap();
            (chunk.at, chunk.kind, text)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ends_are_remembered_until_the_name_is_taken_again() {
    let table = Table::default();
    let tag = |tag: &str| Selector::Tag(tag.into());
    let first = process(&table, 5, Some("a"));
    assert!(matches!(find(&table, &tag("a")), Some(Found::Live(_))));
    table.retire(&first, &end());
    assert!(table.list().is_empty());
    assert!(matches!(
        find(&table, &Selector::Pid(5)),
        Some(Found::Ended(Ended { number: 5, .. }))
    ));
    assert!(table.find(&Selector::Pid(5), Duration::ZERO).is_none());
    assert!(table.live(&Selector::Pid(5)).is_none());
    process(&table, 6, Some("a"));
    assert!(find(&table, &Selector::Pid(5)).is_none());
    assert!(matches!(find(&table, &tag("a")), Some(Found::Live(p)) if p.number() == 6));
    assert!(find(&table, &tag("b")).is_none());
}

#[tokio::test(flavor = "current_thread")]
async fn listeners_hear_everything_since_they_came() {
    let process = process(&Table::default(), 5, None);
    write(&process, Kind::Stdout, "lost").await;
    let mut one = process.listen(Begin::Now).unwrap();
    write(&process, Kind::Stdout, "a").await;
    let mut two = process.listen(Begin::Now).unwrap();
    write(&process, Kind::Stderr, "b").await;
    drop(process.finish(&end()));
    let mut late = process.listen(Begin::Now).unwrap();
    assert_eq!(chunk(&mut one).await, (4, Kind::Stdout, "a".into()));
    assert_eq!(chunk(&mut one).await, (5, Kind::Stderr, "b".into()));
    assert!(one.next().await.is_none());
    assert_eq!((two.at, chunk(&mut two).await.2), (5, "b".into()));
    assert!(matches!(
        late.next().await,
        Some(Event::End { written: 6, .. })
    ));
}

#[tokio::test(flavor = "current_thread")]
async fn who_asks_is_given_what_it_missed_and_then_what_happens() {
    let process = process(&Table::default(), 5, None);
    write(&process, Kind::Stdout, "abc").await;
    write(&process, Kind::Stderr, "DEF").await;
    let mut heard = process.listen(Begin::At(1)).unwrap();
    assert_eq!(heard.at, 1);
    write(&process, Kind::Stdout, "ghi").await;
    assert_eq!(chunk(&mut heard).await, (1, Kind::Stdout, "bc".into()));
    assert_eq!(chunk(&mut heard).await, (3, Kind::Stderr, "DEF".into()));
    assert_eq!(chunk(&mut heard).await, (6, Kind::Stdout, "ghi".into()));
    assert!(matches!(
        process.listen(Begin::At(10)),
        Err(ListenError::Ahead(_))
    ));
    assert_eq!(process.listen(Begin::At(9)).unwrap().at, 9);
}

/// Two streams wait for the same slow listener; the other listener must hear them in the ring's order, too.
#[tokio::test(flavor = "current_thread")]
async fn every_listener_hears_the_order_of_the_ring() {
    let process = process(&Table::default(), 5, None);
    let mut slow = process.listen(Begin::Now).unwrap();
    let mut quick = process.listen(Begin::Now).unwrap();
    for _ in 0..LISTENER_BUFFER {
        write(&process, Kind::Stdout, "-").await;
        chunk(&mut quick).await;
    }
    let mut first = Box::pin(write(&process, Kind::Stderr, "first"));
    let mut second = Box::pin(write(&process, Kind::Stdout, "second"));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    for _ in 0..2 {
        chunk(&mut slow).await;
    }
    // The other way round, as tasks may be polled.
    assert!(futures_util::poll!(&mut second).is_pending());
    assert!(futures_util::poll!(&mut first).is_ready());
    assert!(futures_util::poll!(&mut second).is_ready());
    assert_eq!(chunk(&mut quick).await.2, "first");
    assert_eq!(chunk(&mut quick).await.2, "second");
}

#[tokio::test(flavor = "current_thread")]
async fn output_of_the_last_ended_processes_is_kept() {
    let table = Table::default();
    for number in 0..=ENDED_OUTPUTS_MAX {
        let number = i32::try_from(number).unwrap() + 10;
        let process = process(&table, number, None);
        write(&process, Kind::Stdout, "abc").await;
        table.retire(&process, &end());
    }
    let ended = |number| match find(&table, &Selector::Pid(number)) {
        Some(Found::Ended(ended)) => ended,
        other => panic!("{other:?}"),
    };
    assert_eq!((ended(10).tape.is_none(), ended(10).written), (true, 3));
    assert_eq!(ended(11).tape.unwrap().between(0, 9).len(), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn ends_are_forgotten_in_time() {
    let table = Table::default();
    for number in [5, 6] {
        let process = process(&table, number, None);
        table.retire(&process, &end());
    }
    let long_ago = OUTPUT_RETENTION + SWEEP_DELAY;
    lock(&table.entries).ended[0].at = Instant::now().checked_sub(long_ago).unwrap();
    let first_is_gone = async {
        while lock(&table.entries).ended.len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = table.forget_in_time() => {}
        () = first_is_gone => {}
    }
    assert!(find(&table, &Selector::Pid(5)).is_none());
    assert!(find(&table, &Selector::Pid(6)).is_some());
}
