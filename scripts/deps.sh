#!/bin/sh
# Installs what building, testing and benchmarking need on a fresh Debian, and only what is
# absent. Quiet when there is nothing to do. Needs root (or sudo) only if something is absent.
set -eu

# One "program:package" for each thing the Makefile, the tests and the scripts run.
needed='fio:fio fusermount3:fuse3 mke2fs:e2fsprogs fuse2fs:fuse2fs getfacl:acl getfattr:attr
zstd:zstd sfdisk:fdisk losetup:mount git:git make:make gcc:gcc'

go_min=1.26

# The administrator's programs are not on everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin

missing=
for pair in $needed; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || {
        echo "deps: install these by hand:$missing" >&2
        exit 1
    }
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    echo "deps: installing$missing"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    # shellcheck disable=SC2086  # the list is words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
        --no-install-recommends install $missing >/dev/null
fi

command -v go >/dev/null 2>&1 || {
    echo "deps: go is missing; version $go_min or newer is at https://go.dev/dl/" >&2
    exit 1
}
have=$(go env GOVERSION)
have=${have#go}
oldest=$(printf '%s\n%s\n' "$go_min" "$have" | sort -V | head -n 1)
[ "$oldest" = "$go_min" ] || {
    echo "deps: go $have is too old, $go_min or newer is needed" >&2
    exit 1
}

[ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
[ -e /dev/fuse ] || echo "deps: /dev/fuse is missing: mounting will not work here" >&2
