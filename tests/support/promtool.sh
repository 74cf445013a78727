#!/usr/bin/env bash
# promtool.sh FOLDER: prints the path of promtool, Prometheus' own checker. Where it is not installed, the distribution's
# package is unpacked into FOLDER; installing it would start a server.
set -euo pipefail

folder=${1:?usage: promtool.sh FOLDER}
unpacked=$folder/usr/bin/promtool

if command -v promtool; then exit; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo 'promtool is not installed, and this is no system with apt-get to fetch it' >&2
    exit 1
fi
mkdir -p "$folder"
# Several tests may want it at once.
exec 9>"$folder/lock"
if command -v flock >/dev/null; then flock 9; fi
if [ ! -x "$unpacked" ]; then
    cd "$folder"
    rm -f ./*.deb
    apt-get -q download prometheus >&2 || { apt-get -q update >&2 && apt-get -q download prometheus >&2; }
    rm -rf fresh
    dpkg-deb -x ./*.deb fresh
    mkdir -p usr/bin
    mv fresh/usr/bin/promtool usr/bin/promtool
    rm -rf fresh ./*.deb
fi
echo "$unpacked"
