#!/bin/sh
# Turns a freshly installed Debian tree into SoulBox's `base` template.
#
# Runs on the host as mmdebstrap's last hook: $1 is the tree, the environment holds
# SOULBOX_SUITE and, when the host has an npm client, SOULBOX_NPM_TARBALL.
# Must be safe to run twice on one tree, and must leave nothing of the host behind:
# no names, no resolver, no mirror, no certificates, no caches.
set -eu
root=$1
suite=${SOULBOX_SUITE:?}

inside() {
  chroot "$root" /usr/bin/env LC_ALL=C HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# --- the account of the sandbox's code: E2B's `user`, passwordless sudo ---
if ! inside id user >/dev/null 2>&1; then
  inside groupadd --gid 1000 user
  inside useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash --groups sudo user
fi
inside passwd --delete user >/dev/null
printf 'user ALL=(ALL:ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/user"
chmod 0440 "$root/etc/sudoers.d/user"
chmod 0755 "$root/home/user"
# A new network namespace allows unprivileged ICMP sockets to nobody; ping falls back to a raw one.
chmod u+s "$root/usr/bin/ping"

# --- shells: a login shell keeps the PATH it was given ---
# Debian's /etc/profile replaces PATH, and every command of the SDKs is `bash -l -c`:
# PATH entries that the sandbox was started with would vanish.
cat >"$root/etc/profile" <<'PROFILE'
# System-wide start-up of login shells. PATH is kept when it is set.
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH

if [ "${PS1-}" ]; then
  if [ "${BASH-}" ] && [ "$BASH" != "/bin/sh" ]; then
    if [ -f /etc/bash.bashrc ]; then
      . /etc/bash.bashrc
    fi
  elif [ "$(id -u)" -eq 0 ]; then
    PS1='# '
  else
    PS1='$ '
  fi
fi

if [ -d /etc/profile.d ]; then
  for i in /etc/profile.d/*.sh; do
    if [ -r "$i" ]; then
      . "$i"
    fi
  done
  unset i
fi
PROFILE
# sudo and su reset PATH by their own settings; both include /usr/local already.

# --- locales: C.UTF-8 (part of libc) and en_US.UTF-8 ---
sed -i 's/^# *\(en_US.UTF-8 UTF-8\)/\1/' "$root/etc/locale.gen"
inside locale-gen >/dev/null
printf 'LANG=C.UTF-8\n' >"$root/etc/locale.conf"
ln -sf ../locale.conf "$root/etc/default/locale"

# --- pip: `pip install x` works for `user`, into /usr/local ---
# PEP 668's marker guards a system Python against its administrator; a sandbox has none.
# The path-exclude that keeps it away through upgrades is in dpkg's configuration.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
cat >"$root/etc/pip.conf" <<'PIP'
[global]
break-system-packages = true
disable-pip-version-check = true
root-user-action = ignore
PIP

# --- npm ---
# Debian's npm package brings 350 packages and 150 MB with it. When the host has an npm client,
# npm's own self-contained tarball (its digest was checked by the caller) takes its place.
if [ -n "${SOULBOX_NPM_TARBALL:-}" ]; then
  npm_dir=$root/usr/local/lib/node_modules/npm
  rm -rf "$npm_dir"
  mkdir -p "$npm_dir"
  tar --extract --gzip --file "$SOULBOX_NPM_TARBALL" --directory "$npm_dir" \
    --strip-components=1 --no-same-owner --no-same-permissions
  rm -rf "$npm_dir/docs" "$npm_dir/man"
  ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
  ln -sf ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"
  chmod 0755 "$npm_dir/bin/npm-cli.js" "$npm_dir/bin/npx-cli.js"
  # npm's built-in configuration: global packages go where `user` may write and PATH looks.
  printf 'prefix = /usr/local\nglobalconfig = /etc/npmrc\n' >"$npm_dir/npmrc"
fi
printf 'update-notifier = false\n' >"$root/etc/npmrc"

# --- apt: the public mirror, and only what a user's `apt-get install` needs ---
rm -f "$root/etc/apt/sources.list" "$root/etc/apt/apt.conf.d/99mmdebstrap"
cat >"$root/etc/apt/sources.list.d/debian.sources" <<APT
Types: deb
URIs: http://deb.debian.org/debian
Suites: $suite $suite-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: $suite-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
APT
cat >"$root/etc/apt/apt.conf.d/90soulbox" <<'APT'
APT::Install-Suggests "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dpkg::Use-Pty "false";
APT
# Services are not started inside a sandbox: there is no init that could.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"

# --- a last proof that what was installed runs ---
inside node -e 'process.exit(0)'
inside python3 -c 'import ssl, sqlite3, venv, pip'
inside npm --version >/dev/null
inside git --version >/dev/null

# --- nothing of the host, nothing of the build ---
# resolv.conf, hosts and hostname are bound over per sandbox: regular files must be there.
for name in resolv.conf hosts hostname; do
  rm -f "$root/etc/$name"
  : >"$root/etc/$name"
  chmod 0644 "$root/etc/$name"
done
printf 'sandbox\n' >"$root/etc/hostname"
: >"$root/etc/machine-id"
chmod 0644 "$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/etc/.pwd.lock" "$root"/etc/*- "$root"/etc/ssh/ssh_host_*
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old \
  "$root"/var/cache/ldconfig/* "$root"/var/lib/dpkg/*-old "$root"/var/log/* "$root"/var/tmp/* \
  "$root"/root/.cache "$root"/root/.npm "$root"/home/user/.cache
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial" "$root/var/log/apt"
find "$root/run" -mindepth 1 -xdev -delete

# --- mount points; as in E2B, /usr/local and /code belong to everybody ---
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/code"
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 0777 "$root/code"
find "$root/usr/local" -xdev ! -type l -exec chmod a+rwX {} +
