//! Which stages a build needs, and what each of them stands on.

use std::collections::{BTreeMap, BTreeSet};

use crate::{BadDockerfile, Dockerfile, Instruction, Kind, Stage, expand};

/// A stage that is to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which, from 0.
    pub stage: usize,
    /// What it starts from.
    pub base: Base,
    /// What the `--from` of its COPYs mean, by their text.
    pub uses: BTreeMap<String, Base>,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An image, its name expanded.
    Image(String),
    /// An earlier stage.
    Stage(usize),
    /// Nothing at all.
    Scratch,
}

/// The value of an ARG that is there without a default: `TARGETARCH`, `TARGETPLATFORM`, `BUILDOS` and the like. FROM
/// sees them as they are; an instruction only after an `ARG` of that name. The architecture is the one that the stages
/// run on, as images name it: `amd64`, `arm64`.
#[must_use]
pub fn platform_arg(name: &str, architecture: &str) -> Option<String> {
    let what = name
        .strip_prefix("TARGET")
        .or_else(|| name.strip_prefix("BUILD"))?;
    Some(match what {
        "PLATFORM" => format!("linux/{architecture}"),
        "OS" => "linux".to_owned(),
        "ARCH" => architecture.to_owned(),
        "VARIANT" => String::new(),
        _ => return None,
    })
}

impl Dockerfile {
    /// The stages that a target needs, each after those it uses. The target is a name or number; the last stage when
    /// absent. Values of the caller count for the ARGs before the first FROM. The architecture is that of
    /// [`platform_arg`].
    ///
    /// # Errors
    /// When there is no such target, a stage stands on nothing, is for another platform, or copies from a stage that
    /// does not come before it.
    pub fn plan(
        &self,
        target: Option<&str>,
        build_args: &BTreeMap<String, String>,
        architecture: &str,
    ) -> Result<Vec<Planned>, BadDockerfile> {
        let target = match target {
            Some(target) => self.target(target)?,
            None => self.stages.len().saturating_sub(1),
        };
        let args = Args {
            values: self.global_args(build_args, architecture)?,
            architecture,
        };
        let mut planned = BTreeMap::new();
        let mut needed = BTreeSet::from([target]);
        // Stages only use earlier ones: from the last to the first, nothing is found too late.
        while let Some(stage) = needed.pop_last() {
            let plan = self.plan_stage(stage, &args)?;
            for base in plan.uses.values().chain([&plan.base]) {
                if let Base::Stage(earlier) = base {
                    needed.insert(*earlier);
                }
            }
            planned.insert(stage, plan);
        }
        Ok(planned.into_values().collect())
    }

    /// The values of the ARGs before the first FROM. A stage takes one over with an `ARG` of that name and no default.
    ///
    /// # Errors
    /// When a default cannot be expanded.
    pub fn global_args(
        &self,
        build_args: &BTreeMap<String, String>,
        architecture: &str,
    ) -> Result<BTreeMap<String, String>, BadDockerfile> {
        let mut args = Args {
            values: BTreeMap::new(),
            architecture,
        };
        for arg in &self.args {
            let value = match (build_args.get(&arg.name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(expand(default, &|name| args.get(name))?),
                (None, None) => None,
            };
            if let Some(value) = value {
                args.values.insert(arg.name.clone(), value);
            }
        }
        Ok(args.values)
    }

    fn target(&self, target: &str) -> Result<usize, BadDockerfile> {
        let number = target.parse().ok().filter(|n| *n < self.stages.len());
        self.named(target, self.stages.len())
            .or(number)
            .ok_or_else(|| {
                let names: Vec<&str> = self
                    .stages
                    .iter()
                    .filter_map(|s| s.name.as_deref())
                    .collect();
                let known = match names.as_slice() {
                    [] => "leave --target out: the stages have no names".to_owned(),
                    names => format!("--target {}", names.join(" or ")),
                };
                BadDockerfile::new(format!("there is no stage {target}")).fix(known)
            })
    }

    /// The last stage of that name before this one.
    fn named(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        let stages = self.stages.get(..before).unwrap_or_default();
        stages
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(&name))
    }

    fn plan_stage(&self, index: usize, args: &Args<'_>) -> Result<Planned, BadDockerfile> {
        let Some(stage) = self.stages.get(index) else {
            return Err(BadDockerfile::new(format!("there is no stage {index}")));
        };
        let base = self
            .base(index, stage, args)
            .map_err(|bad| bad.at(stage.line))?;
        let mut uses = BTreeMap::new();
        for instruction in &stage.instructions {
            if let Some(from) = used(instruction) {
                let base = self
                    .source(index, from)
                    .map_err(|bad| bad.at(instruction.line))?;
                uses.insert(from.to_owned(), base);
            }
        }
        Ok(Planned {
            stage: index,
            base,
            uses,
        })
    }

    fn base(&self, index: usize, stage: &Stage, args: &Args<'_>) -> Result<Base, BadDockerfile> {
        let expanded = |text: &str| expand(text, &|name| args.get(name));
        if let Some(platform) = &stage.platform {
            fits(&expanded(platform)?, args.architecture)?;
        }
        let from = expanded(&stage.from)?;
        if from.is_empty() {
            return Err(BadDockerfile::new(format!("FROM {} names no image", stage.from))
                .fix("give its variable a default before the first FROM, or a value with --build-arg"));
        }
        Ok(match self.named(&from, index) {
            Some(earlier) => Base::Stage(earlier),
            None if from == "scratch" => Base::Scratch,
            None => Base::Image(from),
        })
    }

    /// What a `--from` means in this stage.
    fn source(&self, index: usize, from: &str) -> Result<Base, BadDockerfile> {
        if let Some(earlier) = self.named(from, index) {
            return Ok(Base::Stage(earlier));
        }
        let later = match from.parse::<usize>() {
            Ok(number) if number < index => return Ok(Base::Stage(number)),
            Ok(_) => true,
            Err(_) => self.named(from, self.stages.len()).is_some(),
        };
        if later {
            return Err(
                BadDockerfile::new(format!("--from={from} is no stage before this one"))
                    .fix("put the stage before the one that copies from it"),
            );
        }
        Ok(match from {
            "scratch" => Base::Scratch,
            image => Base::Image(image.to_owned()),
        })
    }
}

fn used(instruction: &Instruction) -> Option<&str> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.as_deref(),
        _ => None,
    }
}

/// What FROM sees.
struct Args<'a> {
    /// Of the ARGs before the first FROM.
    values: BTreeMap<String, String>,
    architecture: &'a str,
}

impl Args<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let value = self.values.get(name).cloned();
        value.or_else(|| platform_arg(name, self.architecture))
    }
}

/// Whether what runs on that platform runs here.
fn fits(platform: &str, architecture: &str) -> Result<(), BadDockerfile> {
    let here = format!("linux/{architecture}");
    let same = platform == here
        || here.strip_prefix("linux/") == Some(platform)
        || (here == "linux/arm64" && platform == "linux/arm64/v8")
        || ["", "linux", "local"].contains(&platform);
    if same {
        return Ok(());
    }
    Err(
        BadDockerfile::new(format!("--platform={platform}: this server runs {here}"))
            .fix("take --platform out, or build on a server of that platform"),
    )
}
