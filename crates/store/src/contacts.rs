//! What sandboxes have said to the network, and what became of it.
//!
//! Written quickly: a machine that dies may lose the last of it. Of each sandbox the newest are kept, so that one that
//! talks without end takes no more room than another.

use std::collections::BTreeSet;

use soulbox_types::{SandboxId, TeamId, Timestamp};
use sqlx::QueryBuilder;
use tokio::sync::watch;

use crate::database::{DbRow, column, parsed, time};
use crate::error::During;
use crate::{Store, StoreError};

const TABLE: &str = "contacts";
/// Entries in one statement: twelve values each, and SQLite takes 32,766.
const CHUNK: usize = 500;
/// Entries that are kept of one sandbox.
pub const CONTACTS_KEPT: i64 = 1000;

/// One DNS question, connection or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its place in the order of all; grows. 0 before it is written.
    pub seq: i64,
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Whose.
    pub team: TeamId,
    /// When it began.
    pub at: Timestamp,
    /// `dns`, `tls` or `http`.
    pub kind: String,
    /// The name or address that was asked for.
    pub target: String,
    /// Where a connection went, with the port.
    pub address: Option<String>,
    /// Whether it was let through.
    pub allowed: bool,
    /// The entry of the policy that decided, or why it was refused.
    pub rule: String,
    /// What was asked: a type of record, or method, path and status.
    pub detail: String,
    /// Bytes out of the sandbox.
    pub sent: Option<i64>,
    /// Bytes into it.
    pub received: Option<i64>,
    /// So many before this one were not written down.
    pub skipped: i64,
}

/// Which are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactQuery {
    /// Whose.
    pub team: TeamId,
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Those after this place, oldest first. Without it, the newest, oldest of them first.
    pub after: Option<i64>,
    /// Only those that were refused.
    pub refused_only: bool,
    /// At most this many.
    pub limit: u32,
}

impl Store {
    /// Adds entries, and forgets the oldest of their sandboxes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append_contacts(&self, contacts: &[Contact]) -> Result<(), StoreError> {
        let mut transaction = self.write_quickly().await?;
        for chunk in contacts.chunks(CHUNK) {
            let mut query = QueryBuilder::new(
                "INSERT INTO contacts (sandbox_id, team_id, at, kind, target, address, allowed, rule, detail, sent, \
                 received, skipped) ",
            );
            query.push_values(chunk, |mut row, contact| {
                row.push_bind(contact.sandbox.to_string())
                    .push_bind(contact.team.to_string())
                    .push_bind(contact.at.0)
                    .push_bind(&contact.kind)
                    .push_bind(&contact.target)
                    .push_bind(&contact.address)
                    .push_bind(contact.allowed)
                    .push_bind(&contact.rule)
                    .push_bind(&contact.detail)
                    .push_bind(contact.sent)
                    .push_bind(contact.received)
                    .push_bind(contact.skipped);
            });
            let added = query.build().persistent(false);
            added
                .execute(&mut *transaction)
                .await
                .during("add contacts")?;
        }
        let sandboxes: BTreeSet<&str> = contacts.iter().map(|c| c.sandbox.as_str()).collect();
        for sandbox in sandboxes {
            sqlx::query(
                "DELETE FROM contacts WHERE sandbox_id = $1 AND seq <= \
                 (SELECT seq FROM contacts WHERE sandbox_id = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
            )
            .bind(sandbox)
            .bind(CONTACTS_KEPT)
            .execute(&mut *transaction)
            .await
            .during("forget old contacts")?;
        }
        transaction.commit().await.during("add contacts")?;
        self.contact_news_sender().send_replace(());
        Ok(())
    }

    /// Those that match, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn contacts(&self, query: &ContactQuery) -> Result<Vec<Contact>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT * FROM contacts WHERE sandbox_id = ");
        sql.push_bind(query.sandbox.as_str())
            .push(" AND team_id = ")
            .push_bind(query.team.as_str());
        if query.refused_only {
            sql.push(" AND NOT allowed");
        }
        if let Some(after) = query.after {
            sql.push(" AND seq > ").push_bind(after);
        }
        sql.push(match query.after {
            Some(_) => " ORDER BY seq ASC LIMIT ",
            None => " ORDER BY seq DESC LIMIT ",
        });
        sql.push_bind(i64::from(query.limit));
        let rows = sql.build().fetch_all(self.reader()).await;
        let rows = rows.during("read contacts")?;
        let mut found: Vec<Contact> = rows.iter().map(contact_of).collect::<Result<_, _>>()?;
        if query.after.is_none() {
            found.reverse();
        }
        Ok(found)
    }

    /// Wakes whoever waits for entries. Which there are, the table says.
    #[must_use]
    pub fn contact_news(&self) -> watch::Receiver<()> {
        self.contact_news_sender().subscribe()
    }
}

fn contact_of(row: &DbRow) -> Result<Contact, StoreError> {
    Ok(Contact {
        seq: column(row, TABLE, "seq")?,
        sandbox: parsed(row, TABLE, "sandbox_id")?,
        team: parsed(row, TABLE, "team_id")?,
        at: time(row, TABLE, "at")?,
        kind: column(row, TABLE, "kind")?,
        target: column(row, TABLE, "target")?,
        address: column(row, TABLE, "address")?,
        allowed: column(row, TABLE, "allowed")?,
        rule: column(row, TABLE, "rule")?,
        detail: column(row, TABLE, "detail")?,
        sent: column(row, TABLE, "sent")?,
        received: column(row, TABLE, "received")?,
        skipped: column(row, TABLE, "skipped")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::temp_store;

    fn contact(team: &TeamId, sandbox: &SandboxId, target: &str, allowed: bool) -> Contact {
        Contact {
            seq: 0,
            sandbox: sandbox.clone(),
            team: team.clone(),
            at: Timestamp(5),
            kind: "tls".into(),
            target: target.into(),
            address: Some("11.0.0.1:443".into()),
            allowed,
            rule: "allowOut a.example".into(),
            detail: String::new(),
            sent: Some(1),
            received: None,
            skipped: 2,
        }
    }

    #[tokio::test]
    async fn pages() {
        let store = temp_store().await;
        let (team, sandbox) = (TeamId::random(), SandboxId::random());
        let news = store.contact_news();
        let written: Vec<Contact> = (0..5)
            .map(|n| contact(&team, &sandbox, &format!("n{n}.example"), n % 2 == 0))
            .collect();
        store.append_contacts(&written).await.unwrap();
        assert!(news.has_changed().unwrap());
        let query = |after, refused_only, limit| ContactQuery {
            team: team.clone(),
            sandbox: sandbox.clone(),
            after,
            refused_only,
            limit,
        };
        let targets = async |query: ContactQuery| -> Vec<String> {
            let found = store.contacts(&query).await.unwrap();
            found.into_iter().map(|contact| contact.target).collect()
        };
        let all = store.contacts(&query(None, false, 10)).await.unwrap();
        let unnumbered = all.iter().cloned().map(|c| Contact { seq: 0, ..c });
        assert_eq!(unnumbered.collect::<Vec<_>>(), written);
        assert_eq!(
            targets(query(None, false, 2)).await,
            ["n3.example", "n4.example"]
        );
        assert_eq!(
            targets(query(Some(all[0].seq), false, 2)).await,
            ["n1.example", "n2.example"]
        );
        assert_eq!(
            targets(query(Some(0), true, 9)).await,
            ["n1.example", "n3.example"]
        );
        for (team, sandbox) in [
            (TeamId::random(), sandbox.clone()),
            (team.clone(), SandboxId::random()),
        ] {
            let foreign = ContactQuery {
                team,
                sandbox,
                ..query(None, false, 9)
            };
            assert!(targets(foreign).await.is_empty());
        }
    }

    #[tokio::test]
    async fn of_each_sandbox_the_newest_are_kept() {
        let store = temp_store().await;
        let (team, sandbox, quiet) = (TeamId::random(), SandboxId::random(), SandboxId::random());
        let quiet_one = contact(&team, &quiet, "quiet.example", true);
        store.append_contacts(&[quiet_one]).await.unwrap();
        for round in 0..3 {
            let many: Vec<Contact> = (0..700)
                .map(|n| contact(&team, &sandbox, &format!("r{round}n{n}"), true))
                .collect();
            store.append_contacts(&many).await.unwrap();
        }
        let count = async |sandbox: &SandboxId| {
            let query = ContactQuery {
                team: team.clone(),
                sandbox: sandbox.clone(),
                after: Some(0),
                refused_only: false,
                limit: 10_000,
            };
            store.contacts(&query).await.unwrap()
        };
        let kept = count(&sandbox).await;
        assert_eq!(i64::try_from(kept.len()).unwrap(), CONTACTS_KEPT);
        assert_eq!(kept.last().unwrap().target, "r2n699");
        assert_eq!(count(&quiet).await.len(), 1);
    }
}
