//! What is to be built: arguments, Dockerfile and `.dockerignore`, read and judged before anything is packed or asked for.
//!
//! Blocking: called on a thread for it.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use soulbox_api_types::build::{FromDockerfile, FromFiles, ImageRegistry, StartTemplateBuild};
use soulbox_dockerfile::{BadDockerfile, Dockerfile, Ignore, Kind, Planned, Source};
use soulbox_registry::document::architecture;

use super::super::sandbox::variables;
use crate::args::BuildArgs;
use crate::failure::Failure;

/// What stands for standard input.
const STDIN: &str = "-";

/// What a build does.
pub(super) struct Recipe {
    /// The body of the request, but for the name of its files.
    pub(super) start: StartTemplateBuild,
    /// The files that go along.
    pub(super) files: Option<Files>,
}

/// What is packed and sent.
pub(super) enum Files {
    /// What Dockerfile and `.dockerignore` leave of a directory.
    Context(PathBuf, Ignore),
    /// A file as it is.
    Archive(PathBuf),
}

impl Recipe {
    /// Reads what the arguments name.
    pub(super) fn read(args: &BuildArgs) -> Result<Self, Failure> {
        let mut start = StartTemplateBuild {
            from_image: args.from.from_image.clone(),
            from_template: args.from.from_template.clone(),
            from_image_registry: registry(args)?,
            force: args.no_cache.then_some(true),
            start_cmd: args.start_cmd.clone(),
            ready_cmd: args.ready_cmd.clone(),
            ..StartTemplateBuild::default()
        };
        let files = if let Some(rootfs) = &args.from.rootfs {
            start.from_rootfs = Some(FromFiles::default());
            Some(Files::Archive(rootfs.clone()))
        } else if let Some(archive) = &args.from.archive {
            start.from_archive = Some(FromFiles::default());
            Some(Files::Archive(archive.clone()))
        } else if start.from_image.is_some() || start.from_template.is_some() {
            None
        } else {
            let (dockerfile, context) = dockerfile(args)?;
            start.from_dockerfile = Some(dockerfile);
            context
        };
        Ok(Self { start, files })
    }
}

/// Says what the packed files are called.
pub(super) fn name_files(start: &mut StartTemplateBuild, hash: &str) {
    let files = [&mut start.from_rootfs, &mut start.from_archive];
    for file in files.into_iter().flatten() {
        hash.clone_into(&mut file.files_hash);
    }
    if let Some(dockerfile) = &mut start.from_dockerfile {
        dockerfile.context_hash = Some(hash.to_owned());
    }
}

fn registry(args: &BuildArgs) -> Result<Option<ImageRegistry>, Failure> {
    let registry = &args.registry;
    let (Some(user), Some(file)) = (&registry.registry_user, &registry.registry_password_file)
    else {
        return Ok(None);
    };
    let password = fs::read_to_string(file).map_err(|error| {
        Failure::user(format!("cannot read the password in {}", file.display()))
            .because(error)
            .fix("name a file with --registry-password-file")
    })?;
    Ok(Some(ImageRegistry::Registry {
        username: user.clone(),
        password: password.trim_end_matches(['\r', '\n']).to_owned(),
    }))
}

/// Reads the Dockerfile, and judges it before anything is packed or asked for.
fn dockerfile(args: &BuildArgs) -> Result<(FromDockerfile, Option<Files>), Failure> {
    let from_stdin = args.file.as_deref() == Some(Path::new(STDIN));
    let context = match &args.path {
        None if from_stdin => None,
        None => Some(PathBuf::from(".")),
        Some(path) => Some(path.clone()),
    };
    if let Some(context) = context.as_deref().filter(|path| !path.is_dir()) {
        return Err(
            Failure::usage(format!("{} is not a directory", context.display()))
                .fix("name the directory with the files; the Dockerfile itself is named with -f"),
        );
    }
    let path = match (&args.file, &context) {
        (Some(file), _) => file.clone(),
        (None, Some(context)) => context.join("Dockerfile"),
        (None, None) => PathBuf::from("Dockerfile"),
    };
    let text = read_dockerfile(&path, from_stdin)?;
    let build_args = variables("--build-arg", &args.build_arg)?;
    let name = if from_stdin {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let bad = |error: BadDockerfile| bad(&name, &error);
    let mut file = Dockerfile::parse(&text).map_err(bad)?;
    for stage in &mut file.stages {
        // Whether that is the server's platform, the server knows.
        stage.platform = None;
    }
    let planned = file
        .plan(args.target.as_deref(), &build_args, architecture())
        .map_err(bad)?;
    let files = match (copies(&file, &planned), context) {
        (None, _) => None,
        (Some(line), None) => {
            return Err(Failure::usage(format!(
                "{name}: line {line} copies files, and there is no directory to copy from"
            ))
            .fix(format!(
                "soulbox template build {} PATH -f {STDIN}",
                args.name
            )));
        }
        (Some(_), Some(context)) => {
            let ignore = ignore(&path, &context)?;
            Some(Files::Context(context, ignore))
        }
    };
    let dockerfile = FromDockerfile {
        dockerfile: text,
        context_hash: None,
        build_args,
        target: args.target.clone(),
    };
    Ok((dockerfile, files))
}

fn read_dockerfile(path: &Path, from_stdin: bool) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if from_stdin {
        io::stdin().read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| {
        let what = if from_stdin {
            "cannot read the Dockerfile from standard input".to_owned()
        } else {
            format!("cannot read {}", path.display())
        };
        Failure::user(what)
            .because(error)
            .fix("name the directory that contains it, or the file with -f")
    })?;
    Ok(text)
}

/// The line of the first instruction that needs the context; None when none of the planned stages has one.
fn copies(file: &Dockerfile, planned: &[Planned]) -> Option<usize> {
    let stages = planned
        .iter()
        .filter_map(|planned| file.stages.get(planned.stage));
    let needs = |kind: &Kind| match kind {
        Kind::Copy(copy) | Kind::Add(copy) => {
            let path = |source: &Source| matches!(source, Source::Path(_));
            copy.from.is_none() && copy.sources.iter().any(path)
        }
        _ => false,
    };
    stages
        .flat_map(|stage| &stage.instructions)
        .find(|instruction| needs(&instruction.kind))
        .map(|instruction| instruction.line)
}

/// What stands beside the Dockerfile counts more than what stands in the context.
fn ignore(dockerfile: &Path, context: &Path) -> Result<Ignore, Failure> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    for path in [PathBuf::from(own), context.join(".dockerignore")] {
        match fs::read_to_string(&path) {
            Ok(text) => {
                return Ignore::parse(&text)
                    .map_err(|error| bad(&path.display().to_string(), &error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::user(format!("cannot read {}", path.display()))
                    .because(error)
                    .fix("make it readable, or remove it"));
            }
        }
    }
    Ok(Ignore::default())
}

fn bad(file: &str, error: &BadDockerfile) -> Failure {
    let text = error.to_string();
    match text.split_once("\nFIX: ") {
        Some((what, fix)) => Failure::user(format!("{file}: {what}")).fix(fix),
        None => Failure::user(format!("{file}: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn args(path: Option<&Path>, dockerfile: &str) -> BuildArgs {
        use clap::Parser as _;
        let mut line: Vec<String> = ["soulbox", "template", "build", "mine"]
            .map(Into::into)
            .into();
        line.extend(path.map(|path| path.display().to_string()));
        line.extend(dockerfile.split_whitespace().map(ToOwned::to_owned));
        let cli = crate::args::Cli::try_parse_from(line).unwrap();
        match cli.command {
            crate::args::Command::Template(crate::args::TemplateCommand::Build(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(args: &BuildArgs) -> String {
        match Recipe::read(args) {
            Ok(_) => panic!("{args:?} is taken"),
            Err(failure) => failure.render(),
        }
    }

    #[test]
    fn a_context_is_packed_where_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let files = |text: &str, more: &str| {
            fs::write(path.join("Dockerfile"), text).unwrap();
            let recipe = Recipe::read(&args(Some(path), more)).unwrap();
            let dockerfile = recipe.start.from_dockerfile.unwrap();
            assert_eq!(dockerfile.dockerfile, text);
            recipe.files.is_some()
        };
        assert!(!files("FROM a\nRUN ls", ""));
        assert!(files("FROM a\nCOPY a b", ""));
        assert!(files("FROM a\nADD a b", ""));
        assert!(!files("FROM a\nCOPY <<EOF /b\nEOF", ""));
        assert!(!files("FROM a AS x\nFROM b\nCOPY --from=x /a /b", ""));
        let unused = "FROM a AS x\nCOPY a b\nFROM b AS y";
        assert!(!files(unused, ""));
        assert!(files(unused, "--target x"));
    }

    #[test]
    fn what_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Dockerfile"), "FROM a").unwrap();
        fs::write(dir.path().join("password"), "secret\n").unwrap();
        let more = format!(
            "--build-arg A=b=c --start-cmd s --ready-cmd r --no-cache --cpu 2 --memory 1024 --tag x --tag y \
             --registry-user me --registry-password-file {}",
            dir.path().join("password").display()
        );
        let args = args(Some(dir.path()), &more);
        let start = Recipe::read(&args).unwrap().start;
        assert_eq!(start.force, Some(true));
        assert_eq!(
            (start.start_cmd.as_deref(), start.ready_cmd.as_deref()),
            (Some("s"), Some("r"))
        );
        assert_eq!(
            start.from_image_registry,
            Some(ImageRegistry::Registry {
                username: "me".to_owned(),
                password: "secret".to_owned()
            })
        );
        let build_args = start.from_dockerfile.unwrap().build_args;
        assert_eq!(
            build_args,
            BTreeMap::from([("A".to_owned(), "b=c".to_owned())])
        );
        let wanted = super::super::wanted(&args);
        assert_eq!((wanted.cpu_count, wanted.memory_mb), (Some(2), Some(1024)));
        assert_eq!(wanted.tags.unwrap(), ["x", "y"]);
    }

    #[test]
    fn other_sources() {
        let start = Recipe::read(&args(None, "--from-image debian:13")).unwrap();
        assert_eq!(start.start.from_image.as_deref(), Some("debian:13"));
        assert!(start.files.is_none() && start.start.from_dockerfile.is_none());
        let mut rootfs = Recipe::read(&args(None, "--rootfs /x.tar")).unwrap();
        assert!(matches!(rootfs.files, Some(Files::Archive(_))));
        name_files(&mut rootfs.start, "abc");
        assert_eq!(rootfs.start.from_rootfs.unwrap().files_hash, "abc");
    }

    #[test]
    fn refusals() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let said = refusal(&args(Some(path), ""));
        assert!(
            said.contains("/Dockerfile: No such file") && said.contains("\nFIX: "),
            "{said}"
        );
        fs::write(path.join("Dockerfile"), "FROM a\nRNU ls").unwrap();
        let said = refusal(&args(Some(path), ""));
        assert!(
            said.contains("/Dockerfile: line 2: RNU is no instruction\nFIX: "),
            "{said}"
        );
        let said = refusal(&args(Some(&path.join("Dockerfile")), ""));
        assert!(said.contains("is not a directory\nFIX: "), "{said}");
        fs::write(path.join("Dockerfile"), "FROM a\nCOPY a b").unwrap();
        fs::write(path.join(".dockerignore"), "a\n[").unwrap();
        let said = refusal(&args(Some(path), ""));
        assert!(said.contains("/.dockerignore: line 2: "), "{said}");
        fs::write(path.join("Dockerfile.dockerignore"), "a").unwrap();
        assert!(Recipe::read(&args(Some(path), "")).is_ok());
        let said = refusal(&args(Some(path), "--target x"));
        assert!(said.contains("there is no stage x"), "{said}");
        let said = refusal(&args(Some(path), "--build-arg SOULBOX_NOT_SET"));
        assert!(
            said.contains("--build-arg SOULBOX_NOT_SET: no such variable here"),
            "{said}"
        );
    }
}
