//! The certificate of an authority that is asked for it: had before the old one ends, kept, and used as soon as it is there.
//!
//! Nothing waits for it. Until the first one is there, clients are shown certificates of the server's own authority; when
//! one cannot be had, the last one stays.

mod kept;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use soulbox_acme::{
    Failure, Issued, Order, Peer, Present, Trouble, Validity, is_due, validity, wait,
};
use soulbox_edge::tls::{Awaited, Certificates};
use soulbox_helper::{RecordAct, RemoteDriver};
use soulbox_telemetry::chain;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::certificates;
use crate::config::Acme;
pub(crate) use kept::{Certificate, Kept, PREFIX};

/// Longer than the command and the authority may take together.
const ORDER_PATIENCE: Duration = Duration::from_secs(3600);

/// Uses the certificate that is kept, and asks for another whenever it is time.
pub(super) fn begin(
    acme: &Acme,
    trusted: &[u8],
    domain: &str,
    data_dir: &Path,
    helper: Arc<RemoteDriver>,
    until: CancellationToken,
) -> anyhow::Result<Certificates> {
    let peer = Peer::new(trusted).context(
        "cannot ask the ACME authority\nFIX: install the package ca-certificates, or correct acme_ca_file",
    )?;
    let meanwhile = certificates::authority(data_dir, domain)?;
    let shown = Arc::new(Awaited::new(meanwhile));
    let mut keeper = Keeper {
        acme: acme.clone(),
        domain: domain.to_owned(),
        peer,
        records: Records {
            kept: Kept::of(data_dir, domain),
            helper,
        },
        shown: Arc::clone(&shown),
        held: None,
        trouble: None,
    };
    keeper.take_up();
    tokio::spawn(async move { until.run_until_cancelled(keeper.keep()).await });
    Ok(Certificates::Awaited(shown))
}

/// The records of challenges: noted before they are made, so that whoever comes after a sudden end removes them.
struct Records {
    kept: Kept,
    helper: Arc<RemoteDriver>,
}

impl Present for Records {
    async fn present(&self, value: &str) -> Result<(), String> {
        let noted = self.kept.note(value);
        noted.map_err(|error| format!("cannot note the record of a challenge: {error}"))?;
        soulbox_fault::point!("acme.record-noted");
        let made = self
            .helper
            .challenge_record(RecordAct::Present, value)
            .await;
        made.map_err(|error| chain(&error))?;
        soulbox_fault::point!("acme.record-made");
        Ok(())
    }
}

impl Records {
    /// Removes all that were made. One that cannot be removed is tried again at the next time.
    async fn remove(&self) {
        for value in self.kept.noted() {
            let gone = self
                .helper
                .challenge_record(RecordAct::Cleanup, &value)
                .await;
            let forgotten = match gone {
                Ok(()) => self.kept.forget(&value).map_err(|error| error.to_string()),
                Err(error) => Err(chain(&error)),
            };
            if let Err(error) = forgotten {
                tracing::warn!(error, value, "the record of a challenge is not removed");
            }
        }
    }
}

/// Failures since the last success.
struct Failed {
    count: u32,
    at: Instant,
    told: Option<Duration>,
    jitter: f64,
}

impl Failed {
    fn trouble(&self) -> Trouble {
        Trouble {
            failures: self.count,
            ago: self.at.elapsed(),
            told: self.told,
            jitter: self.jitter,
        }
    }
}

struct Keeper {
    acme: Acme,
    domain: String,
    peer: Peer,
    records: Records,
    shown: Arc<Awaited>,
    /// Of the certificate of this authority that is used.
    held: Option<Validity>,
    trouble: Option<Failed>,
}

impl Keeper {
    /// Uses what an earlier server has kept.
    fn take_up(&mut self) {
        match self.records.kept.certificate() {
            Ok(Some(kept)) => match self.use_it(&kept) {
                // One of another authority is shown until there is one of this.
                Ok(validity) if kept.directory == self.acme.directory => self.held = Some(validity),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(error, "the certificate that was kept cannot be used");
                }
            },
            Ok(None) => tracing::warn!(
                domain = self.domain,
                "there is no certificate of the ACME authority yet: until there is, this server's own authority makes them"
            ),
            Err(error) => tracing::error!(%error, "the certificate that was kept cannot be read"),
        }
    }

    fn use_it(&self, certificate: &Certificate) -> Result<Validity, String> {
        let chain_pem = certificate.chain.as_bytes();
        let validity = validity(chain_pem).ok_or("its dates cannot be read")?;
        self.shown
            .replace(chain_pem, certificate.key.as_bytes())
            .map_err(|error| chain(&error))?;
        let ends = validity.not_after.duration_since(UNIX_EPOCH);
        metrics::gauge!("soulbox_acme_certificate_ends_timestamp_seconds")
            .set(ends.unwrap_or_default().as_secs_f64());
        Ok(validity)
    }

    async fn keep(mut self) {
        self.records.remove().await;
        loop {
            let trouble = self.trouble.as_ref().map(Failed::trouble);
            let rest = wait(SystemTime::now(), self.held, trouble);
            if !rest.is_zero() {
                sleep(rest).await;
                continue;
            }
            match self.renew().await {
                Ok(()) => self.trouble = None,
                Err((error, told)) => self.note_failure(&error, told),
            }
        }
    }

    fn note_failure(&mut self, error: &str, told: Option<Duration>) {
        metrics::counter!("soulbox_acme_failures_total").increment(1);
        let count = self.trouble.take().map_or(0, |trouble| trouble.count);
        let failed = Failed {
            count: count.saturating_add(1),
            at: Instant::now(),
            told,
            jitter: random_part(),
        };
        let told = told.map(|told| told.as_secs());
        match self.held {
            Some(held) if held.has_ended(SystemTime::now()) => tracing::error!(
                error,
                failures = failed.count,
                retry_after = told,
                until = until(&held),
                "the certificate has EXPIRED and there is no new one: clients refuse this server"
            ),
            held => tracing::warn!(
                error,
                failures = failed.count,
                retry_after = told,
                until = held.map(|held| until(&held)),
                "there is no new certificate; it is tried again"
            ),
        }
        self.trouble = Some(failed);
    }

    /// One attempt.
    async fn renew(&mut self) -> Result<(), (String, Option<Duration>)> {
        let without = |error: String| (error, None);
        let account_key = self.records.kept.account_key();
        let account_key = account_key.map_err(|error| without(format!("{error:#}")))?;
        let order = Order {
            directory: &self.acme.directory,
            contact: self.acme.contact.as_deref(),
            domain: &self.domain,
            account_key: &account_key,
        };
        soulbox_fault::point!("acme.account-kept");
        let obtained = timeout(ORDER_PATIENCE, order.obtain(&self.peer, &self.records)).await;
        let taken = match obtained {
            Ok(Ok(issued)) => self.take(issued).map_err(without),
            Ok(Err(Failure { error, told })) => Err((chain(&error), told)),
            Err(_) => Err(without("the order has taken an hour".to_owned())),
        };
        // Also after an order that was given up: what it has made is noted. Last: the operator's program takes its time.
        self.records.remove().await;
        taken
    }

    /// Keeps and uses what was issued.
    fn take(&mut self, issued: Issued) -> Result<(), String> {
        soulbox_fault::point!("acme.issued");
        let certificate = Certificate {
            directory: self.acme.directory.clone(),
            chain: issued.chain,
            key: issued.key,
        };
        // Authorities count what they issue: it is kept first, and used even where it cannot be.
        if let Err(error) = self.records.kept.write(&certificate) {
            tracing::error!(%error, "the new certificate cannot be kept: the next start asks for another. FIX: free space in the data directory");
        }
        soulbox_fault::point!("acme.certificate-kept");
        let validity = self.use_it(&certificate)?;
        self.held = Some(validity);
        let until = until(&validity);
        if is_due(SystemTime::now(), validity) {
            return Err(format!(
                "the new certificate ends at {until}: is the clock right?"
            ));
        }
        tracing::info!(
            domain = self.domain,
            until,
            "the new certificate is used from now on"
        );
        Ok(())
    }
}

fn until(held: &Validity) -> String {
    jiff::Timestamp::try_from(held.not_after).map_or_else(
        |_| "a time that cannot be written".to_owned(),
        |at| at.to_string(),
    )
}

/// From 0 to 1.
fn random_part() -> f64 {
    let random = getrandom::u32().expect("the operating system provides randomness");
    f64::from(random) / f64::from(u32::MAX)
}
