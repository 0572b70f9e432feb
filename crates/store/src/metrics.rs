//! What sandboxes have used, sampled every few seconds and thinned with age.
//!
//! A thousand sandboxes make two hundred readings a second; kept in full for a week they would be a hundred million rows.
//! The steps in which a range is shown are coarser the longer it is, so readings older than an hour are thinned to one
//! in half a minute, and those older than a day to one in five minutes. A reading's grade, given at birth from its time
//! alone, says how long it is kept.

use std::time::Duration;

use soulbox_types::{SandboxId, TeamId, Timestamp};
use sqlx::QueryBuilder;

use crate::database::{Db, DbRow, column, parsed, signed, time, unsigned};
use crate::error::During;
use crate::{Store, StoreError};

/// Name of the table in messages.
const TABLE: &str = "metrics";
/// Readings in one statement: eleven values each, and SQLite takes 32,766.
const CHUNK: usize = 500;
/// Time between two readings, as clients expect it; the first in a step of a grade stands for the step.
const SAMPLE_SECONDS: i64 = 5;
/// Step of the readings that are kept for a day.
const GRADE_1_SECONDS: i64 = 30;
/// Step of the readings that are kept for a week.
const GRADE_2_SECONDS: i64 = 300;
/// How long the readings of each grade are kept.
pub(crate) const KEPT: [Duration; 3] = [
    Duration::from_hours(1),
    Duration::from_hours(24),
    Duration::from_hours(24 * 7),
];

/// One reading.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSample {
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Whose.
    pub team: TeamId,
    /// When.
    pub at: Timestamp,
    /// CPUs it has.
    pub cpu_count: u32,
    /// Percent of all of them together, 0 to 100, two decimals.
    pub cpu_used_pct: f64,
    /// Memory in use, without page cache.
    pub mem_used_bytes: u64,
    /// Memory it may use.
    pub mem_total_bytes: u64,
    /// Page cache.
    pub mem_cache_bytes: u64,
    /// Disk in use.
    pub disk_used_bytes: u64,
    /// Size of its disk.
    pub disk_total_bytes: u64,
}

/// How long a reading of this time is kept: an index into [`KEPT`].
fn grade(at: Timestamp) -> i64 {
    let first_in = |step: i64| at.unix_seconds().rem_euclid(step) < SAMPLE_SECONDS;
    if first_in(GRADE_2_SECONDS) {
        2
    } else {
        i64::from(first_in(GRADE_1_SECONDS))
    }
}

impl Store {
    /// Adds readings, all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append_metrics(&self, samples: &[MetricSample]) -> Result<(), StoreError> {
        if samples.is_empty() {
            return Ok(());
        }
        let mut transaction = self.write_quickly().await?;
        for chunk in samples.chunks(CHUNK) {
            insert_query(chunk)
                .build()
                .persistent(false)
                .execute(&mut *transaction)
                .await
                .during("add readings")?;
        }
        transaction.commit().await.during("add readings")
    }

    /// Times of the team's first and last reading of a sandbox.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn metrics_range(
        &self,
        team: &TeamId,
        sandbox: &SandboxId,
    ) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
        let row: Option<(i64, i64)> = sqlx::query_as(
            "SELECT first.at, last.at FROM \
             (SELECT at FROM metrics WHERE sandbox_id = $1 AND team_id = $2 ORDER BY at ASC LIMIT 1) AS first, \
             (SELECT at FROM metrics WHERE sandbox_id = $1 AND team_id = $2 ORDER BY at DESC LIMIT 1) AS last",
        )
        .bind(sandbox.as_str())
        .bind(team.as_str())
        .fetch_optional(self.reader())
        .await
        .during("read the range of readings")?;
        Ok(row.map(|(first, last)| (Timestamp(first), Timestamp(last))))
    }

    /// Readings of a sandbox from `start` to `end` (both included), averaged over steps, oldest first.
    /// The time of a step is that of its last reading.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn metrics(
        &self,
        team: &TeamId,
        sandbox: &SandboxId,
        range: (Timestamp, Timestamp),
        step: Duration,
    ) -> Result<Vec<MetricSample>, StoreError> {
        let step = i64::try_from(step.as_micros()).unwrap_or(i64::MAX).max(1);
        let rows = sqlx::query(
            "SELECT MAX(sandbox_id) AS sandbox_id, MAX(team_id) AS team_id, MAX(at) AS at, MAX(cpu_count) AS cpu_count, \
             AVG(cpu_used_pct) AS cpu_used_pct, CAST(AVG(mem_used) AS BIGINT) AS mem_used, \
             MAX(mem_total) AS mem_total, CAST(AVG(mem_cache) AS BIGINT) AS mem_cache, \
             CAST(AVG(disk_used) AS BIGINT) AS disk_used, MAX(disk_total) AS disk_total \
             FROM metrics WHERE sandbox_id = $1 AND team_id = $2 AND at >= $3 AND at <= $4 \
             GROUP BY at / $5 ORDER BY at / $5",
        )
        .bind(sandbox.as_str())
        .bind(team.as_str())
        .bind(range.0.0)
        .bind(range.1.0)
        .bind(step)
        .fetch_all(self.reader())
        .await
        .during("read readings")?;
        rows.iter().map(sample_of).collect()
    }

    /// The newest reading of each of these sandboxes that is the team's and has one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn latest_metrics(
        &self,
        team: &TeamId,
        sandboxes: &[SandboxId],
    ) -> Result<Vec<MetricSample>, StoreError> {
        let mut samples = Vec::with_capacity(sandboxes.len());
        for sandbox in sandboxes {
            let row = sqlx::query("SELECT * FROM metrics WHERE sandbox_id = $1 AND team_id = $2 ORDER BY at DESC LIMIT 1")
                .bind(sandbox.as_str())
                .bind(team.as_str())
                .fetch_optional(self.reader())
                .await
                .during("read the newest reading")?;
            samples.extend(row.as_ref().map(sample_of).transpose()?);
        }
        Ok(samples)
    }
}

fn insert_query(samples: &[MetricSample]) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(
        "INSERT INTO metrics (sandbox_id, at, team_id, grade, cpu_count, cpu_used_pct, mem_used, mem_total, mem_cache, \
         disk_used, disk_total) ",
    );
    query.push_values(samples, |mut row, sample| {
        row.push_bind(sample.sandbox.to_string())
            .push_bind(sample.at.0)
            .push_bind(sample.team.to_string())
            .push_bind(grade(sample.at))
            .push_bind(i64::from(sample.cpu_count))
            .push_bind(sample.cpu_used_pct)
            .push_bind(signed(sample.mem_used_bytes))
            .push_bind(signed(sample.mem_total_bytes))
            .push_bind(signed(sample.mem_cache_bytes))
            .push_bind(signed(sample.disk_used_bytes))
            .push_bind(signed(sample.disk_total_bytes));
    });
    // A clock that stands still or goes back may give the same time twice; the first reading stays.
    query.push(" ON CONFLICT (sandbox_id, at) DO NOTHING");
    query
}

fn sample_of(row: &DbRow) -> Result<MetricSample, StoreError> {
    Ok(MetricSample {
        sandbox: parsed(row, TABLE, "sandbox_id")?,
        team: parsed(row, TABLE, "team_id")?,
        at: time(row, TABLE, "at")?,
        cpu_count: unsigned(row, TABLE, "cpu_count")?,
        cpu_used_pct: (column::<f64>(row, TABLE, "cpu_used_pct")? * 100.0).round() / 100.0,
        mem_used_bytes: unsigned(row, TABLE, "mem_used")?,
        mem_total_bytes: unsigned(row, TABLE, "mem_total")?,
        mem_cache_bytes: unsigned(row, TABLE, "mem_cache")?,
        disk_used_bytes: unsigned(row, TABLE, "disk_used")?,
        disk_total_bytes: unsigned(row, TABLE, "disk_total")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::database::tests::temp_store;

    pub(crate) fn sample(
        team: &TeamId,
        sandbox: &SandboxId,
        seconds: i64,
        pct: f64,
    ) -> MetricSample {
        MetricSample {
            sandbox: sandbox.clone(),
            team: team.clone(),
            at: Timestamp(seconds * 1_000_000),
            cpu_count: 2,
            cpu_used_pct: pct,
            mem_used_bytes: 1000,
            mem_total_bytes: 2000,
            mem_cache_bytes: 300,
            disk_used_bytes: 40,
            disk_total_bytes: 500,
        }
    }

    #[test]
    fn grades() {
        let check = |seconds: i64, want: i64| {
            assert_eq!(grade(Timestamp(seconds * 1_000_000)), want, "{seconds}");
        };
        check(0, 2);
        check(4, 2);
        check(5, 0);
        check(30, 1);
        check(35, 0);
        check(300, 2);
        check(330, 1);
    }

    #[tokio::test]
    async fn readings() {
        let store = temp_store().await;
        let (team, foreign) = (TeamId::random(), TeamId::random());
        let (one, two) = (SandboxId::random(), SandboxId::random());
        assert_eq!(store.metrics_range(&team, &one).await.unwrap(), None);
        store.append_metrics(&[]).await.unwrap();
        let samples: Vec<_> = (0..12)
            .flat_map(|n| {
                [sample(
                    &team,
                    &one,
                    1000 + n * 5,
                    10.0 + f64::from(i32::try_from(n).unwrap()),
                )]
            })
            .collect();
        store.append_metrics(&samples).await.unwrap();
        store.append_metrics(&samples).await.unwrap();
        store
            .append_metrics(&[sample(&foreign, &two, 1000, 1.0)])
            .await
            .unwrap();

        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let step = Duration::from_secs;
        assert_eq!(
            store.metrics_range(&team, &one).await.unwrap(),
            Some((at(1000), at(1055)))
        );
        assert_eq!(
            store
                .metrics(&team, &one, (at(0), at(9999)), step(5))
                .await
                .unwrap(),
            samples
        );
        assert_eq!(
            store
                .metrics(&team, &one, (at(1005), at(1010)), step(5))
                .await
                .unwrap(),
            samples[1..=2]
        );
        assert_eq!(
            store
                .metrics(&team, &one, (at(0), at(999)), step(5))
                .await
                .unwrap(),
            []
        );
        assert_eq!(
            store
                .metrics(&foreign, &one, (at(0), at(9999)), step(5))
                .await
                .unwrap(),
            []
        );
        // 1000..1015, 1020..1045, 1050..1055
        let coarse = store
            .metrics(&team, &one, (at(0), at(9999)), step(30))
            .await
            .unwrap();
        let coarse: Vec<_> = coarse
            .iter()
            .map(|s| (s.at.unix_seconds(), s.cpu_used_pct))
            .collect();
        assert_eq!(coarse, [(1015, 11.5), (1045, 16.5), (1055, 20.5)]);

        let latest = store
            .latest_metrics(&team, &[two.clone(), one.clone(), SandboxId::random()])
            .await
            .unwrap();
        assert_eq!(latest, samples[11..]);
    }
}
