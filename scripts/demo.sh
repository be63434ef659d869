#!/bin/sh
# Makes an ext4 image from a small tree, mounts it with asyncfsd, lists it, compares every file,
# reads at random from it with fio, unmounts it and checks the image; then mounts it for writing,
# unpacks this source tree into it, has fio write and verify, checks the image again and compares
# everything on a new mount. Works for root and for anybody who may use fusermount3. ASYNCFSD names another binary than ./asyncfsd.
set -eu

PATH=$PATH:/usr/sbin:/sbin
asyncfsd=${ASYNCFSD:-$(dirname "$0")/../asyncfsd}
seconds=${DEMO_SECONDS:-5}
work=
mounted=

say() { printf '\n== %s\n' "$*"; }
fail() { echo "demo: $*" >&2; exit 1; }

cleanup() {
    status=$?
    trap - EXIT INT TERM HUP
    if [ -n "$mounted" ]; then
        "$asyncfsd" umount "$work/mnt" 2>/dev/null ||
            fusermount3 -uz "$work/mnt" 2>/dev/null || umount -l "$work/mnt" 2>/dev/null || true
    fi
    if [ -n "$work" ]; then
        # Nothing is removed below a mountpoint that is still in use.
        rmdir "$work/mnt" 2>/dev/null || [ ! -e "$work/mnt" ] ||
            { echo "demo: $work/mnt could not be unmounted" >&2; exit 1; }
        rm -rf "$work"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for program in mke2fs e2fsck fio diff; do
    command -v "$program" >/dev/null || fail "$program is missing: sh scripts/deps.sh installs it"
done
[ -x "$asyncfsd" ] || fail "$asyncfsd is missing: make build"

work=$(mktemp -d)
tree=$work/tree
image=$work/demo.img
mkdir "$work/mnt" "$tree" "$tree/docs" "$tree/docs/many"

say "a small tree"
echo 'Hello from an ext4 image.' >"$tree/hello.txt"
ln -s docs/notes.txt "$tree/a-symlink"
ln "$tree/hello.txt" "$tree/a-hard-link"
: >"$tree/empty"
i=0
while [ $i -lt 300 ]; do
    echo "line $i" >>"$tree/docs/notes.txt"
    cp "$tree/docs/notes.txt" "$tree/docs/many/file-$i"
    i=$((i + 1))
done
truncate -s 20M "$tree/sparse"
printf 'the only data of 20 MiB' | dd of="$tree/sparse" bs=1M seek=9 conv=notrunc status=none
dd if=/dev/urandom of="$tree/data" bs=1M count=64 status=none
files=$(find "$tree" | wc -l)
echo "$files files and directories, $(du -sh "$tree" | cut -f1)"

say "an ext4 image of it: mke2fs -d"
truncate -s 256M "$image"
mke2fs -q -t ext4 -b 4096 -d "$tree" "$image"
sum=$(cksum <"$image")
ls -lh "$image"

say "mounted: asyncfsd -o ro ${image##*/} mnt"
# A signal may arrive while it mounts, so the clean-up looks after the mountpoint from here on.
mounted=yes
"$asyncfsd" -o ro "$image" "$work/mnt"
ls -l "$work/mnt"
df -h "$work/mnt" | tail -n 1

say "every file compared with the tree it was made from"
diff -r --no-dereference --exclude=lost+found "$tree" "$work/mnt" || fail "they differ"
found=$(find "$work/mnt" -name lost+found -prune -o -print | wc -l)
[ "$found" = "$files" ] || fail "$found files and directories instead of $files"
echo "identical"

say "fio: 4k random reads, O_DIRECT, 32 in flight, $seconds s"
result=
for engine in libaio io_uring; do
    result=$(fio --name=demo --readonly --filename="$work/mnt/data" --rw=randread --bs=4k \
        --direct=1 --iodepth=32 --ioengine=$engine --norandommap --time_based \
        --runtime="$seconds" --minimal 2>"$work/fio.err") && break
    result=
done
[ -n "$result" ] || { cat "$work/fio.err" >&2; fail "fio failed"; }
# The terse format, version 3: its fields 5, 7 and 8 are error, KiB/s and IOPS.
error=$(echo "$result" | tail -n 1 | cut -d';' -f5)
rate=$(echo "$result" | tail -n 1 | cut -d';' -f7)
iops=$(echo "$result" | tail -n 1 | cut -d';' -f8)
[ "$error" = 0 ] && [ "$iops" -gt 0 ] || fail "fio failed with error $error"
echo "$iops reads a second, $((rate / 1024)) MiB/s ($engine)"

say "unmounted: asyncfsd umount"
"$asyncfsd" umount "$work/mnt"
mounted=
[ "$(cksum <"$image")" = "$sum" ] || fail "the image was changed by a read-only mount"
e2fsck -fn "$image" 2>/dev/null || fail "e2fsck complains"

say "written: asyncfsd ${image##*/} mnt"
mounted=yes
"$asyncfsd" "$image" "$work/mnt"
source=$(cd "$(dirname "$0")/.." && pwd)
mkdir "$work/mnt/source"
tar -C "$source" --exclude=.git --exclude=testdata -cf - . | tar -C "$work/mnt/source" -xf -
fio --name=demo --filename="$work/mnt/written" --size=24M --rw=randwrite --bs=4k --direct=1 \
    --iodepth=32 --ioengine=$engine --verify=crc32c --do_verify=1 --verify_state_save=0 \
    --minimal >/dev/null 2>"$work/fio.err" || { cat "$work/fio.err" >&2; fail "fio failed"; }
mv "$work/mnt/hello.txt" "$work/mnt/renamed.txt"
rm -r "$work/mnt/docs"
written=$(cksum <"$work/mnt/written")
"$asyncfsd" umount "$work/mnt"
mounted=
e2fsck -fn "$image" 2>/dev/null || fail "e2fsck complains"

say "mounted again, and compared"
mounted=yes
"$asyncfsd" -o ro "$image" "$work/mnt"
diff -r --no-dereference --exclude=.git --exclude=testdata "$source" "$work/mnt/source" ||
    fail "they differ"
diff -r --no-dereference --exclude=lost+found --exclude=docs --exclude=hello.txt \
    --exclude=renamed.txt --exclude=source --exclude=written "$tree" "$work/mnt" ||
    fail "what was not touched differs"
cmp "$tree/hello.txt" "$work/mnt/renamed.txt" || fail "the renamed file differs"
[ "$(cksum <"$work/mnt/written")" = "$written" ] || fail "the file that fio wrote differs"
[ ! -e "$work/mnt/hello.txt" ] && [ ! -e "$work/mnt/docs" ] || fail "removed names are back"
echo "identical"
"$asyncfsd" umount "$work/mnt"
mounted=

say "done"
echo "demo: $files files and directories identical, $iops random reads a second, a source tree" \
    "and a file by fio written and read back, image clean"
