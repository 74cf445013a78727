#!/usr/bin/env bash
# unpacked.sh PROGRAM PACKAGE FOLDER: prints the path of a program that a test wants beside it. Where it is not installed, the
# distribution's package is unpacked into FOLDER, with the libraries that it names; installing it would start a server.
set -euo pipefail

program=${1:?usage: unpacked.sh PROGRAM PACKAGE FOLDER} package=${2:?no package} folder=${3:?no folder}

PATH=$PATH:/usr/sbin:/sbin
if command -v "$program"; then exit; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "$program is not installed, and this is no system with apt-get to fetch it" >&2
    exit 1
fi
mkdir -p "$folder"
# Several tests may want it at once.
exec 9>"$folder/lock"
if command -v flock >/dev/null; then flock 9; fi
found() { find "$folder/all" -path "*bin/$program" -type f 2>/dev/null | head -n 1; }
fetch() {
    # Its libraries too, but not the C library: a program has one already, and two do not mix.
    apt-cache depends --no-recommends --no-suggests "$package" |
        sed -n 's/^ *Depends: \(lib[^<>]*\)$/\1/p' | grep -vx 'libc6' | xargs apt-get -q download "$package" >&2
}
if [ -z "$(found)" ]; then
    cd "$folder"
    rm -rf all ./*.deb
    fetch || { apt-get -q update >&2 && fetch; }
    for archive in ./*.deb; do dpkg-deb -x "$archive" all; done
    rm -f ./*.deb
fi
path=$(found)
[ -n "$path" ] && echo "$path"
