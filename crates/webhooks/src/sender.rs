//! Sends what is due.
//!
//! One task looks for it, whenever an event has been recorded, a delivery has ended or a wait is over, and starts a task
//! for each. A webhook has a few of them at most, so that one whose receiver is slow or dead holds up no other. What is
//! under way is known in memory alone: after a restart it is due again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, header};
use http_body_util::Full;
use soulbox_fault as fault;
use soulbox_outbound::{Outbound, OutboundError};
use soulbox_secrets::{Secrets, SecretsError};
use soulbox_store::{Due, Store, StoreError, Tried};
use soulbox_telemetry::task::Tasks;
use soulbox_types::{DeliveryId, Timestamp, WebhookId};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use url::{Position, Url};

use crate::places::{BadPlace, Places};
use crate::{message, schedule};

/// Requests of one webhook at the same time.
const OF_ONE: usize = 4;
/// Requests at the same time.
const OF_ALL: usize = 128;
/// How long a receiver may take, from looking for it to its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The wait after the first try.
const FIRST_WAIT: Duration = Duration::from_secs(3);
/// The clock may be set meanwhile, and what is under way hides when others are due.
const LONGEST_NAP: Duration = Duration::from_secs(1);
/// When nothing waits.
const IDLE_NAP: Duration = Duration::from_secs(60);
/// When the database cannot be read or written.
const TROUBLE: Duration = Duration::from_secs(5);
/// What is under way when the server stops may end; else it is sent again by the next one.
const GRACE: Duration = Duration::from_secs(2);
/// Characters of what is kept of an error.
const MOST_ERROR: usize = 300;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("e2b-webhook-id");
const DELIVERY_ID: HeaderName = HeaderName::from_static("e2b-delivery-id");
const SIGNATURE_VERSION: HeaderName = HeaderName::from_static("e2b-signature-version");
const SIGNATURE: HeaderName = HeaderName::from_static("e2b-signature");
const OUR_SIGNATURE: HeaderName = HeaderName::from_static("soulbox-signature");

/// How webhooks are told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where requests may go.
    pub places: Places,
    /// How long a receiver may take to answer.
    pub patience: Duration,
    /// The wait after the first try; see [`schedule::wait_after`].
    pub first_wait: Duration,
}

impl Settings {
    /// The usual times.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self {
            places,
            patience: PATIENCE,
            first_wait: FIRST_WAIT,
        }
    }
}

/// The sender. A copy is another handle on the same one.
#[derive(Debug, Clone)]
pub struct Webhooks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    secrets: Secrets,
    settings: Settings,
    outbound: Outbound,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Webhooks {
    /// Begins to send what waits.
    #[must_use]
    pub fn start(store: Store, secrets: Secrets, settings: Settings) -> Self {
        let inner = Arc::new(Inner {
            store,
            secrets,
            settings,
            outbound: Outbound::default(),
            tasks: Tasks::new(),
            stop: CancellationToken::new(),
        });
        let keeper = Arc::clone(&inner);
        inner.tasks.spawn("webhooks", async move {
            while !keeper.stop.is_cancelled() {
                // A panic is logged, and then it begins again.
                let sender = keeper
                    .tasks
                    .spawn("webhook sender", run(Arc::clone(&keeper)));
                drop(sender.await);
                if !keeper.stop.is_cancelled() {
                    tokio::time::sleep(TROUBLE).await;
                }
            }
        });
        Self { inner }
    }

    /// Judges the URL of a webhook, see [`Places::judge`].
    ///
    /// # Errors
    /// When it can never be sent to.
    pub fn judge(&self, url: &str) -> Result<Url, BadPlace> {
        self.inner.settings.places.judge(url)
    }

    /// Stops sending. What has not been told waits for the next server.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.finished().await;
    }
}

/// What is under way.
#[derive(Debug, Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    of_task: HashMap<Id, (WebhookId, DeliveryId)>,
    of_webhook: BTreeMap<WebhookId, BTreeSet<DeliveryId>>,
}

impl UnderWay {
    fn begin(&mut self, due: Due, inner: &Arc<Inner>) {
        let (webhook, delivery) = (due.webhook.id.clone(), due.id.clone());
        let mine = self.of_webhook.entry(webhook.clone()).or_default();
        mine.insert(delivery.clone());
        let task = self.tasks.spawn(guarded(deliver(Arc::clone(inner), due)));
        self.of_task.insert(task.id(), (webhook, delivery));
    }

    fn ended(&mut self, task: Id) {
        let Some((webhook, delivery)) = self.of_task.remove(&task) else {
            return;
        };
        if let Some(mine) = self.of_webhook.get_mut(&webhook) {
            mine.remove(&delivery);
            if mine.is_empty() {
                self.of_webhook.remove(&webhook);
            }
        }
    }

    /// Resolves when one of them has ended; never when there is none.
    async fn one_ends(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => self.ended(task),
            Some(Err(error)) => self.ended(error.id()),
            None => std::future::pending().await,
        }
    }
}

/// Waits for a delivery. After a panic it is still due, and that is not looked at at once.
async fn guarded(delivery: impl Future<Output = ()> + Send + 'static) {
    // Dropped together: what is under way ends with the sender.
    let mut one = JoinSet::new();
    one.spawn(delivery);
    if let Some(Err(error)) = one.join_next().await {
        tracing::error!(%error, "a delivery to a webhook failed; it is sent again");
        tokio::time::sleep(TROUBLE).await;
    }
}

async fn run(inner: Arc<Inner>) {
    let mut news = inner.store.event_news();
    let mut under_way = UnderWay::default();
    loop {
        news.mark_unchanged();
        let nap = match start_due(&inner, &mut under_way).await {
            Ok(nap) => nap,
            Err(error) => {
                let error = soulbox_telemetry::chain(&error);
                tracing::error!(error, "deliveries to webhooks are not read; trying again");
                TROUBLE
            }
        };
        tokio::select! {
            () = inner.stop.cancelled() => break,
            changed = news.changed() => if changed.is_err() { break },
            () = under_way.one_ends() => {}
            () = tokio::time::sleep(nap) => {}
        }
    }
    let ending = async { while under_way.tasks.join_next().await.is_some() {} };
    drop(tokio::time::timeout(GRACE, ending).await);
}

/// Starts what is due, as far as there is room, and says how long nothing else will be.
async fn start_due(inner: &Arc<Inner>, under_way: &mut UnderWay) -> Result<Duration, StoreError> {
    let now = Timestamp::now();
    let mut due = inner.store.webhooks_with_due(now).await?;
    // Those that have nothing under way come first.
    due.sort_by_key(|webhook| under_way.of_webhook.get(webhook).map_or(0, BTreeSet::len));
    for webhook in due {
        let mine = under_way
            .of_webhook
            .get(&webhook)
            .cloned()
            .unwrap_or_default();
        let room = OF_ONE
            .saturating_sub(mine.len())
            .min(OF_ALL.saturating_sub(under_way.tasks.len()));
        if room == 0 {
            continue;
        }
        for delivery in inner
            .store
            .due_deliveries(&webhook, now, &mine, room)
            .await?
        {
            under_way.begin(delivery, inner);
        }
    }
    let next = inner.store.next_delivery_at().await?;
    Ok(match next {
        None => IDLE_NAP,
        // Under way, or without room: the end of a request is waited for.
        Some(at) if at <= now => LONGEST_NAP,
        Some(at) => at.since(now).min(LONGEST_NAP),
    })
}

/// Sends one, and writes down how that went.
async fn deliver(inner: Arc<Inner>, due: Due) {
    let sent = tokio::time::timeout(inner.settings.patience, send(&inner, &due)).await;
    fault::point!("webhook.answered");
    let (status, error) = match sent {
        Ok(Ok(status)) => (Some(status), refusal(status)),
        Ok(Err(Unsent::Outbound(error))) => (None, Some(told(&error))),
        Ok(Err(Unsent::Unsigned(error))) => {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(webhook.id = %due.webhook.id, error, "a webhook cannot be told");
            (
                None,
                Some("it cannot be signed; give the webhook another secret".to_owned()),
            )
        }
        Err(_elapsed) => {
            let seconds = inner.settings.patience.as_secs_f32();
            (None, Some(format!("no answer within {seconds} s")))
        }
    };
    let at = Timestamp::now();
    let wait = schedule::wait_after(due.tries + 1, inner.settings.first_wait, dice());
    let next_try_at = error.as_ref().and(wait).map(|wait| at.plus(wait));
    count(error.is_none(), next_try_at.is_some());
    tracing::debug!(webhook.id = %due.webhook.id, delivery.id = %due.id, status, error, "webhook told");
    let tried = Tried {
        at,
        status,
        error,
        next_try_at,
    };
    if let Err(error) = inner.store.note_try(&due.id, &tried).await {
        let error = soulbox_telemetry::chain(&error);
        tracing::error!(delivery.id = %due.id, error, "a delivery is not noted; it is sent again");
        // It is still due.
        tokio::time::sleep(TROUBLE).await;
    }
}

/// Why something could not be sent.
enum Unsent {
    Outbound(OutboundError),
    Unsigned(SecretsError),
}

async fn send(inner: &Inner, due: &Due) -> Result<u16, Unsent> {
    let unreachable = |error: &dyn std::fmt::Display| {
        Unsent::Outbound(OutboundError::Unreachable(error.to_string()))
    };
    let url = Url::parse(&due.webhook.url).map_err(|error| unreachable(&error))?;
    let body = message::body(&due.event);
    let secret = inner.secrets.of_webhook(&due.webhook);
    let secret = secret.map_err(Unsent::Unsigned)?;
    let secret = secret.expose();
    let request = Request::post(&url[Position::BeforePath..Position::AfterQuery])
        .header(header::CONTENT_TYPE, "application/json")
        .header(WEBHOOK_ID, due.webhook.id.as_str())
        .header(DELIVERY_ID, due.id.as_str())
        .header(SIGNATURE_VERSION, message::SIGNATURE_VERSION)
        .header(SIGNATURE, message::signature(secret, &body))
        .header(OUR_SIGNATURE, message::hmac_signature(secret, &body))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unreachable(&error))?;
    let sent = inner.outbound.send(&inner.settings.places, &url, request);
    // What else is answered is nobody's to read.
    Ok(sent.await.map_err(Unsent::Outbound)?.status().as_u16())
}

/// Why an answer is no success.
fn refusal(status: u16) -> Option<String> {
    match status {
        200..=299 => None,
        300..=399 => Some(format!("answered {status}: redirections are not followed")),
        _ => Some(format!("answered {status}")),
    }
}

/// For the webhook's owner.
fn told(error: &OutboundError) -> String {
    let text = match error {
        OutboundError::NotPublic(_) => {
            format!("{error}\nFIX: let the operator of this server list it in private_webhooks")
        }
        _ => error.to_string(),
    };
    text.chars().take(MOST_ERROR).collect()
}

/// Any number. Without randomness, all wait the same.
fn dice() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_or(u16::MAX / 2, |()| u16::from_ne_bytes(bytes))
}

fn count(delivered: bool, again: bool) {
    let outcome = match (delivered, again) {
        (true, _) => "delivered",
        (false, true) => "again",
        (false, false) => "failed",
    };
    metrics::counter!("soulbox_webhooks_tries_total", "outcome" => outcome).increment(1);
}
