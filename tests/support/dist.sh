#!/usr/bin/env bash
# Builds target/dist/campaign-sync, one static program for any x86-64 Linux, and proves that it is one.
set -euo pipefail

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$support/../.."
# shellcheck source=tests/support/packages.sh
. "$support/packages.sh"

readonly triple=x86_64-unknown-linux-musl program=target/dist/campaign-sync
readonly most_bytes=6000000

die() {
    printf 'dist.sh: %s\n' "$*" >&2
    exit 1
}

# A toolchain without rustup comes from a distribution, which has the target as a package or not at all.
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$triple/lib" ]; then
    command -v rustup >/dev/null || die "this Rust toolchain has no target $triple, and no rustup to add it"
    rustup target add "$triple"
fi
if ! command -v musl-gcc >/dev/null; then
    install_packages apt-get=musl-tools dnf=musl-gcc yum=musl-gcc pacman=musl apk=musl-dev ||
        die "install musl-gcc (package musl-tools) and try again"
fi
compiler=$(command -v musl-gcc || command -v gcc) || die "no C compiler for $triple found"

target_dir=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
CC_x86_64_unknown_linux_musl=$compiler cargo build --release --locked --target "$triple" -p campaign-sync
mkdir -p "$(dirname "$program")"
cp "$target_dir/$triple/release/campaign-sync" "$program.new"
mv "$program.new" "$program"

bytes=$(wc -c <"$program")
[ "$bytes" -lt "$most_bytes" ] || die "$bytes bytes: more than $most_bytes"

# A static program names no interpreter and no libraries.
headers=$(LC_ALL=C readelf --wide --program-headers --dynamic "$program")
case $headers in *INTERP* | *'(NEEDED)'*) die "not static: $headers" ;; esac
linked=$(LC_ALL=C ldd "$program" 2>&1 || true)
case $linked in *'not a dynamic executable'* | *'statically linked'*) ;; *) die "not static: $linked" ;; esac

# It starts with nothing around it: no environment, no files.
help=$(env -i "$program" --help) || die "--help fails"
case $help in *sync*) ;; *) die "--help says nothing of sync: $help" ;; esac
code=0
complaint=$(env -i "$program" sync 2>&1) || code=$?
[ "$code" = 2 ] || die "sync without settings exits with $code instead of 2: $complaint"

printf '%s: static, %s bytes\n' "$program" "$bytes"
(cd "$(dirname "$program")" && sha256sum "$(basename "$program")")
