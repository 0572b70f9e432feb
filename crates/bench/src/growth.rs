//! What a create, a look, a list and a proxied request cost as there are ten and a hundred times as many sandboxes, keys,
//! templates and layers: flat, or growing like a logarithm.

use std::time::Instant;

use soulbox_client::Api;
use soulbox_client::api::ListQuery;

use crate::idle::fill;
use crate::run::{BenchError, Created, Options, create_usable, kill_all, reason, request, warm_up};
use crate::stats::Samples;
use crate::template::{build, name};
use crate::{Report, ratio};

/// The numbers at which costs are measured, times the first.
const TIMES: [u32; 3] = [1, 10, 100];
/// The first number, when nothing else is wanted. Layers and templates begin with one: each is a build.
const FIRST: u32 = 10;
/// Entries of a list that the server gives at most.
const LARGEST_PAGE: u32 = 100;
const CREATES: usize = 30;
const REQUESTS: usize = 200;
/// How much more the hundredfold may cost: noise, and a logarithm.
const AT_MOST: f64 = 1.5;

/// What was measured at one number of things.
#[derive(Default)]
struct Costs {
    create: Samples,
    look: Samples,
    list: Samples,
    proxied: Samples,
}

/// What becomes more.
#[derive(Clone, Copy)]
enum Of {
    Sandboxes,
    Keys,
    Templates,
    Layers,
}

impl Of {
    const ALL: [Self; 4] = [Self::Keys, Self::Templates, Self::Layers, Self::Sandboxes];

    fn name(self) -> &'static str {
        match self {
            Self::Sandboxes => "sandboxes",
            Self::Keys => "keys",
            Self::Templates => "templates",
            Self::Layers => "layers",
        }
    }
}

/// What was made, to be taken away again.
#[derive(Default)]
struct Made {
    sandboxes: Vec<String>,
    keys: Vec<String>,
    templates: Vec<String>,
}

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let mut report = Report::new("growth");
    warm_up(api, options).await?;
    for of in Of::ALL {
        let mut made = Made::default();
        let outcome = grow(api, options, of, &mut made, &mut report).await;
        take_away(api, made).await;
        match outcome {
            Err(BenchError::Client(error)) if matches!(of, Of::Keys) => {
                report.note(format!("keys were not measured: {error}"));
            }
            other => other?,
        }
    }
    Ok(report)
}

async fn take_away(api: &Api, made: Made) {
    kill_all(api, made.sandboxes.into_iter()).await;
    // What stays is seen in the lists of keys and templates.
    for key in made.keys {
        api.revoke_key(&key).await.ok();
    }
    for template in made.templates {
        api.delete_template(&template).await.ok();
    }
}

async fn grow(
    api: &Api,
    options: &Options,
    of: Of,
    made: &mut Made,
    report: &mut Report,
) -> Result<(), BenchError> {
    let first = match of {
        Of::Sandboxes | Of::Keys => options.count.unwrap_or(FIRST),
        Of::Templates | Of::Layers => 1,
    };
    // As many as there are at first, so that each list is a whole page and pages are alike.
    let page = options.count.unwrap_or(FIRST).min(LARGEST_PAGE);
    let mut all = Vec::new();
    for times in TIMES {
        let template = reach(api, options, of, first * times, made).await?;
        let costs = costs(api, &template, page).await?;
        all.push((first * times, costs));
    }
    say(of, &all, report);
    Ok(())
}

/// Makes as many as are missing, and names the template to create from.
async fn reach(
    api: &Api,
    options: &Options,
    of: Of,
    number: u32,
    made: &mut Made,
) -> Result<String, BenchError> {
    let missing = |there: usize| number.saturating_sub(u32::try_from(there).unwrap_or(u32::MAX));
    match of {
        Of::Sandboxes => {
            let (ids, times) = fill(api, &options.template, missing(made.sandboxes.len())).await;
            made.sandboxes.extend(ids);
            if let Some(reason) = times.distribution().first_failure {
                return Err(BenchError::Reference(format!(
                    "{number} sandboxes: {reason}"
                )));
            }
        }
        Of::Keys => {
            for _ in 0..missing(made.keys.len()) {
                made.keys
                    .push(api.create_key("soulbox-bench").await?.record.id);
            }
        }
        Of::Templates => {
            for index in 0..missing(made.templates.len()) {
                let name = name(&format!("growth-{number}-{index}"));
                build(api, options, &name, Vec::new(), &mut made.templates).await?;
            }
        }
        Of::Layers => {
            let name = name(&format!("layers-{number}"));
            let step = |step| format!("echo {step} >/home/user/{step}");
            let steps = (0..number).map(step).collect();
            build(api, options, &name, steps, &mut made.templates).await?;
            return Ok(name);
        }
    }
    Ok(options.template.clone())
}

async fn costs(api: &Api, template: &str, page: u32) -> Result<Costs, BenchError> {
    let mut costs = Costs::default();
    let request = request(template);
    for _ in 0..CREATES {
        match create_usable(api, &request).await {
            Ok(created) => {
                costs.create.add(created.create);
                api.kill(&created.sandbox.sandbox_id).await?;
            }
            Err(error) => costs.create.fail(&reason(&error)),
        }
    }
    let created = create_usable(api, &request).await?;
    requests(api, &created, page, &mut costs).await;
    api.kill(&created.sandbox.sandbox_id).await?;
    Ok(costs)
}

async fn requests(api: &Api, created: &Created, page: u32, costs: &mut Costs) {
    let (id, envd) = (&created.sandbox.sandbox_id, &created.envd);
    // In turn: a noisy moment of the machine meets all.
    for _ in 0..REQUESTS {
        let start = Instant::now();
        costs
            .look
            .record(api.get_sandbox(id).await.map(|_| start.elapsed()));
        let start = Instant::now();
        let query = ListQuery {
            limit: Some(page),
            ..ListQuery::default()
        };
        costs
            .list
            .record(api.list(&query).await.map(|_| start.elapsed()));
        let start = Instant::now();
        costs
            .proxied
            .record(envd.health().await.map(|()| start.elapsed()));
    }
}

fn say(of: Of, all: &[(u32, Costs)], report: &mut Report) {
    type Cost = (&'static str, fn(&Costs) -> &Samples);
    let kinds: [Cost; 4] = [
        ("create (answer)", |costs| &costs.create),
        ("GET /sandboxes/{id}", |costs| &costs.look),
        ("GET /v2/sandboxes", |costs| &costs.list),
        ("proxied request", |costs| &costs.proxied),
    ];
    for (what, samples) in kinds {
        for (number, costs) in all {
            let title = format!("{what} with {number} {}", of.name());
            report.timing(title, samples(costs), None);
        }
        let (Some((few, first)), Some((many, last))) = (all.first(), all.last()) else {
            continue;
        };
        // A page of a list has more on it when there is more: up to a hundred.
        let bound = match (of, what) {
            (Of::Sandboxes, "GET /v2/sandboxes") => None,
            _ => Some(AT_MOST),
        };
        report.ratio(
            format!("{what}, {many} / {few} {} (p50)", of.name()),
            ratio::of_medians(samples(last), samples(first)),
            bound,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_cost_has_a_row_for_each_number_and_a_ratio() {
        let costs = |ms: u64| {
            let mut costs = Costs::default();
            let samples = [
                &mut costs.create,
                &mut costs.look,
                &mut costs.list,
                &mut costs.proxied,
            ];
            for samples in samples {
                samples.add(Duration::from_millis(ms));
            }
            costs
        };
        let mut report = Report::new("growth");
        let all = [(10, costs(10)), (100, costs(10)), (1000, costs(20))];
        say(Of::Sandboxes, &all, &mut report);
        assert_eq!((report.timings.len(), report.ratios.len()), (12, 4));
        let reached: Vec<_> = report.ratios.iter().map(|ratio| ratio.reached).collect();
        assert_eq!(reached, [Some(false), Some(false), None, Some(false)]);
    }
}
