//! Creates while many policies are in force: the same sandboxes are there without and with one each, in turn.

use soulbox_api_types::network::{SandboxNetworkConfig, SandboxNetworkUpdate};
use soulbox_client::{Api, ClientError};
use tokio::task::JoinSet;

use crate::run::{BenchError, Options, create_usable, kill_all, reason, request, request_with};
use crate::stats::Samples;
use crate::{Report, ratio};

const POLICIES: u32 = 1000;
const CREATES: u32 = 30;
const TURNS: u32 = 2;
const AT_ONCE: u32 = 8;

/// Creates of one kind, with nobody's policy in force and with everybody's.
#[derive(Default)]
struct Creates {
    before: Samples,
    under: Samples,
}

pub(super) async fn measure(
    api: &Api,
    options: &Options,
    report: &mut Report,
) -> Result<(), BenchError> {
    let count = options.count.unwrap_or(POLICIES);
    let ids = fill(api, &options.template, count).await?;
    let outcome = turns(api, options, &ids).await;
    kill_all(api, ids.into_iter()).await;
    let [without, with] = outcome?;
    for (what, creates) in [("without a policy", &without), ("with a policy", &with)] {
        report.timing(
            format!("create {what}, 0 policies in force"),
            &creates.before,
            None,
        );
        report.timing(
            format!("create {what}, {count} policies in force"),
            &creates.under,
            None,
        );
        report.ratio(
            format!("create {what}, {count} / 0 policies in force (p50)"),
            ratio::of_medians(&creates.under, &creates.before),
            Some(1.2),
        );
    }
    report.note(format!("{count} other sandboxes run in both cases"));
    Ok(())
}

async fn turns(api: &Api, options: &Options, ids: &[String]) -> Result<[Creates; 2], BenchError> {
    let [mut without, mut with] = [Creates::default(), Creates::default()];
    for _ in 0..TURNS {
        set_all(api, ids, &SandboxNetworkUpdate::default()).await?;
        creates(api, options, &mut without.before, &mut with.before).await;
        let policy = SandboxNetworkUpdate {
            deny_out: Some(denied()),
            ..SandboxNetworkUpdate::default()
        };
        set_all(api, ids, &policy).await?;
        creates(api, options, &mut without.under, &mut with.under).await;
    }
    Ok([without, with])
}

fn denied() -> Vec<String> {
    vec!["11.1.0.0/16".to_owned(), "11.2.3.4".to_owned()]
}

async fn creates(api: &Api, options: &Options, without: &mut Samples, with: &mut Samples) {
    let network = SandboxNetworkConfig {
        deny_out: Some(denied()),
        ..SandboxNetworkConfig::default()
    };
    let policed = request_with(&options.template, network);
    let open = request(&options.template);
    for _ in 0..CREATES {
        for (new, samples) in [(&open, &mut *without), (&policed, &mut *with)] {
            match create_usable(api, new).await {
                Ok(created) => {
                    samples.add(created.create);
                    kill_all(api, [created.sandbox.sandbox_id].into_iter()).await;
                }
                Err(error) => samples.fail(&reason(&error)),
            }
        }
    }
}

async fn fill(api: &Api, template: &str, count: u32) -> Result<Vec<String>, BenchError> {
    let mut makers = JoinSet::new();
    for maker in 0..AT_ONCE {
        let share = count / AT_ONCE + u32::from(maker < count % AT_ONCE);
        let (api, new) = (api.clone(), request(template));
        makers.spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..share {
                ids.push(api.create(&new).await?.sandbox_id);
            }
            Ok::<_, ClientError>(ids)
        });
    }
    let mut ids = Vec::new();
    for some in makers.join_all().await {
        ids.extend(some?);
    }
    Ok(ids)
}

async fn set_all(
    api: &Api,
    ids: &[String],
    policy: &SandboxNetworkUpdate,
) -> Result<(), BenchError> {
    let mut setters = JoinSet::new();
    let share = ids
        .len()
        .div_ceil(usize::try_from(AT_ONCE).unwrap_or(1))
        .max(1);
    for some in ids.chunks(share) {
        let (api, policy, some) = (api.clone(), policy.clone(), some.to_vec());
        setters.spawn(async move {
            for id in some {
                api.set_network(&id, &policy).await?;
            }
            Ok::<_, ClientError>(())
        });
    }
    for done in setters.join_all().await {
        done?;
    }
    Ok(())
}
