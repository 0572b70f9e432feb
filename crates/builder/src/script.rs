//! The lines that steps become, for `bash` inside the sandbox. Pure: every value is an argument, never a part of a
//! script's text, but for what is meant to be expanded.

use std::collections::BTreeMap;

use soulbox_types::BuildContext;

/// What every command finds at the end of its PATH, where the context sets one.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Prints one value as a login shell of root expands it: variables, and nothing else.
pub(crate) fn expansion(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 16);
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        let substitution = c == '$' && rest.peek() == Some(&'(');
        if matches!(c, '\\' | '"' | '`') || substitution {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    format!("printf '%s' \"{quoted}\"")
}

/// Whether a value means something else after expansion.
pub(crate) fn needs_expansion(value: &str) -> bool {
    value.contains('$')
}

/// The environment of a command in a context.
pub(crate) fn environment(context: &BuildContext) -> BTreeMap<String, String> {
    let mut environment = context.env.clone();
    if let Some(path) = environment.get_mut("PATH") {
        path.push(':');
        path.push_str(SYSTEM_PATH);
    }
    environment
}

/// Makes a directory with its parents, gives what is new of it to the user, and prints where it is.
/// Arguments: path, user.
pub(crate) const WORKDIR: &str = r#"
set -e
path=$1 user=$2 new=
case $path in /*) ;; *) path=/$path ;; esac
part=$path
while [ ! -e "$part" ] && [ ! -L "$part" ]; do new=$part; part=$(dirname -- "$part"); done
mkdir -p -- "$path"
if [ -n "$new" ]; then chown -R -- "$user:" "$new"; fi
cd -- "$path"
pwd
"#;

/// Makes an image usable: commands run in `bash`. For `/bin/sh`, with the package manager of the image's distribution.
pub(crate) const PROVISION: &str = r#"
set -e
if ! command -v bash >/dev/null; then
  echo "the image has no bash; it is installed" >&2
  if command -v apk >/dev/null; then apk add --no-cache bash
  elif command -v apt-get >/dev/null; then apt-get update && apt-get install -y --no-install-recommends bash
  elif command -v dnf >/dev/null; then dnf install -y bash
  elif command -v microdnf >/dev/null; then microdnf install -y bash
  elif command -v pacman >/dev/null; then pacman -Sy --noconfirm bash
  else echo "the image has neither bash nor a package manager that is known" >&2; exit 1; fi
fi
if [ ! -e /bin/bash ]; then ln -s "$(command -v bash)" /bin/bash; fi
mkdir -p /home
"#;

/// Makes a user where there is none of that name. Arguments: name, `true` for sudo without a password.
pub(crate) const USER: &str = r#"
set -e
name=$1
if ! id -u -- "$name" >/dev/null 2>&1; then
  if command -v useradd >/dev/null; then useradd --create-home --shell /bin/bash -- "$name"
  elif command -v adduser >/dev/null && adduser -D -s /bin/bash -- "$name" 2>/dev/null; then :
  else
    # Nothing in the image makes users.
    id=1000
    while grep -q "^[^:]*:[^:]*:$id:" /etc/passwd /etc/group; do id=$((id + 1)); done
    printf '%s:x:%s:%s::/home/%s:/bin/bash\n' "$name" "$id" "$id" "$name" >>/etc/passwd
    printf '%s:x:%s:\n' "$name" "$id" >>/etc/group
    if [ -e /etc/shadow ]; then printf '%s:*:19000:0:99999:7:::\n' "$name" >>/etc/shadow; fi
    mkdir -p "/home/$name"
    chown "$id:$id" "/home/$name"
  fi
fi
if [ "$2" = true ]; then
  for group in sudo wheel; do
    if grep -q "^$group:" /etc/group && command -v usermod >/dev/null; then usermod -aG "$group" -- "$name"; break; fi
  done
  if command -v passwd >/dev/null; then passwd -d -- "$name" >/dev/null 2>&1 || :; fi
  mkdir -p /etc/sudoers.d
  printf '%s ALL=(ALL) NOPASSWD:ALL\n' "$name" >"/etc/sudoers.d/90-$name"
  chmod 0440 "/etc/sudoers.d/90-$name"
fi
"#;

/// Unpacks an archive and puts a part of it where it belongs.
/// Arguments: archive, source in it, target, owner, mode or nothing, directory that relative targets start from (the
/// home of the user given next when empty), user.
pub(crate) const COPY: &str = r#"
set -e
archive=$1 source=$2 target=$3 owner=$4 mode=$5 base=$6
if [ -z "$base" ]; then base=$(getent passwd -- "$7" | cut -d: -f6); fi
case $target in /*) ;; *) target=${base:-/}/$target ;; esac
work=$(mktemp -d /tmp/.copy.XXXXXXXX)
trap 'rm -rf -- "$work" "$archive"' EXIT
tar -xf "$archive" -C "$work" --no-same-owner
from=$work${source:+/$source}
if [ ! -e "$from" ] && [ ! -L "$from" ]; then echo "source path does not exist: ${source:-.}" >&2; exit 1; fi
if [ -L "$from" ] || [ ! -d "$from" ]; then
  chown -h -- "$owner" "$from"
  if [ -n "$mode" ] && [ ! -L "$from" ]; then chmod -- "$mode" "$from"; fi
  case $target in
    */) mkdir -p -- "$target" ;;
    *) mkdir -p -- "$(dirname -- "$target")" ;;
  esac
  mv -f -- "$from" "$target"
else
  chown -R -h -- "$owner" "$from"
  if [ -n "$mode" ]; then chmod -R -- "$mode" "$from"; fi
  if [ ! -e "$target" ]; then mkdir -p -- "$target"; chown -- "$owner" "$target"; fi
  tar -cf - -C "$from" . | tar -xpf - -C "$target" --same-owner --keep-directory-symlink --no-overwrite-dir
fi
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(value: &str) -> String {
        let output = std::process::Command::new("bash")
            .args(["-c", &expansion(value)])
            .env_clear()
            .env("NAME", "me $HOME")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn variables_are_expanded_and_nothing_is_run() {
        assert_eq!(expanded("a $NAME b"), "a me $HOME b");
        assert_eq!(expanded("${NAME}x"), "me $HOMEx");
        assert_eq!(expanded("${NONE:-else}"), "else");
        assert_eq!(expanded("$(echo no) `echo no`"), "$(echo no) `echo no`");
        assert_eq!(expanded(r#"a\n"b" 'c' !"#), r#"a\n"b" 'c' !"#);
    }

    #[test]
    fn a_path_of_the_context_finds_the_system() {
        let mut context = BuildContext::default();
        assert!(environment(&context).is_empty());
        context.env.insert("PATH".to_owned(), "/x".to_owned());
        assert!(environment(&context)["PATH"].starts_with("/x:/usr/local/sbin:"));
    }

    /// The scripts run here as they do inside; they need no root for what is looked at.
    fn run(script: &str, arguments: &[&str]) -> std::process::Output {
        std::process::Command::new("bash")
            .args(["-c", script, "bash"])
            .args(arguments)
            .output()
            .unwrap()
    }

    #[test]
    fn a_directory_is_made_and_its_path_told() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("a/b");
        let output = run(WORKDIR, &[wanted.to_str().unwrap(), &whoami()]);
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().trim(),
            wanted.to_str().unwrap(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn whoami() -> String {
        let output = std::process::Command::new("id")
            .arg("-un")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Copies what `fill` made, and returns the directory it came to.
    fn copied(
        fill: impl FnOnce(&std::path::Path),
        source: &str,
        target: &str,
        mode: &str,
        before: impl FnOnce(&std::path::Path),
    ) -> (tempfile::TempDir, std::process::Output) {
        let dir = tempfile::tempdir().unwrap();
        let (files, base) = (dir.path().join("files"), dir.path().join("base"));
        std::fs::create_dir_all(&files).unwrap();
        std::fs::create_dir_all(&base).unwrap();
        fill(&files);
        before(&base);
        let archive = dir.path().join("archive");
        let packed = std::process::Command::new("tar")
            .args([
                "-czf",
                archive.to_str().unwrap(),
                "-C",
                files.to_str().unwrap(),
                ".",
            ])
            .status()
            .unwrap();
        assert!(packed.success());
        let me = whoami();
        let owner = format!("{me}:");
        let base = base.to_str().unwrap();
        let archive = archive.to_str().unwrap();
        let output = run(COPY, &[archive, source, target, &owner, mode, base, &me]);
        (dir, output)
    }

    #[test]
    fn files_and_directories_come_to_where_they_belong() {
        let (dir, output) = copied(
            |files| std::fs::write(files.join("a.txt"), "a").unwrap(),
            "a.txt",
            "sub/",
            "0600",
            |_| {},
        );
        assert!(output.status.success(), "{output:?}");
        let there = dir.path().join("base/sub/a.txt");
        assert_eq!(std::fs::read_to_string(&there).unwrap(), "a");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(there).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        let (dir, output) = copied(
            |files| {
                std::fs::create_dir_all(files.join("d/e")).unwrap();
                std::fs::write(files.join("d/e/f"), "new").unwrap();
            },
            "d",
            "t",
            "",
            |base| {
                std::fs::create_dir_all(base.join("real")).unwrap();
                std::fs::create_dir_all(base.join("t")).unwrap();
                std::fs::write(base.join("t/kept"), "old").unwrap();
                std::os::unix::fs::symlink("../real", base.join("t/e")).unwrap();
            },
        );
        assert!(output.status.success(), "{output:?}");
        let base = dir.path().join("base");
        assert_eq!(std::fs::read_to_string(base.join("real/f")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(base.join("t/kept")).unwrap(), "old");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let (_dir, output) = copied(|_| {}, "missing", "t", "", |_| {});
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("source path does not exist"));
    }
}
