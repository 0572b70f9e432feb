#!/bin/sh
# Does what one mmdebstrap call does, for hosts that only have debootstrap:
# a minimal tree first, then apt inside it for the rest. $1 is the debootstrap program, $2 the tree.
# Runs in a mount namespace of its own, so that its mounts end with it.
set -eu
debootstrap=$1
root=$2
archives=$root/var/cache/apt/archives

mkdir -p "$root"
"$debootstrap" --variant=minbase --cache-dir="$SOULBOX_APT_CACHE" --keyring="$SOULBOX_KEYRING" \
  --include=ca-certificates "$SOULBOX_SUITE" "$root" "$SOULBOX_MIRROR"

printf '%s\n' "$SOULBOX_DPKG_CONF" >"$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
printf '%s\n' "$SOULBOX_APT_CONF" >"$root/etc/apt/apt.conf.d/99mmdebstrap"
# apt runs inside: the host's name resolution, and the keyring at the path that the sources name.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root$(dirname "$SOULBOX_KEYRING")"
[ -e "$root$SOULBOX_KEYRING" ] || cp -L "$SOULBOX_KEYRING" "$root$SOULBOX_KEYRING"
printf '%s\n' "$SOULBOX_SOURCES" >"$root/etc/apt/sources.list"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"

mount -t proc proc "$root/proc"
mount --bind "$SOULBOX_APT_CACHE" "$archives"
inside() { DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"; }
inside apt-get update
# shellcheck disable=SC2086 # a list of package names
inside apt-get install --yes --no-install-recommends $SOULBOX_INCLUDE
inside apt-get dist-upgrade --yes
umount "$archives" "$root/proc"
# The first stage ran before dpkg knew what to leave out.
find "$root/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/usr/share/lintian/*
find "$root/usr/share/locale" -mindepth 1 -maxdepth 1 ! -name locale.alias ! -name 'en*' -exec rm -rf {} +

sh "$SOULBOX_CUSTOMIZE" "$root"
