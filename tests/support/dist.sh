#!/usr/bin/env bash
# Builds target/dist/campaign-sync, one static program for any x86-64 Linux, proves that it is one, and packs it as a tarball,
# .deb, .rpm and OCI image; for 64-bit ARM as well where the tools are there. The same commit and toolchain give the same
# bytes in any directory and with any CARGO_HOME.
#
#   dist.sh             everything
#   dist.sh program     the program and its manual page only
set -euo pipefail

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$support/../.."
# shellcheck source=tests/support/packages.sh
. "$support/packages.sh"
# shellcheck source=tests/support/package.sh
. "$support/package.sh"

readonly native=x86_64-unknown-linux-musl foreign=aarch64-unknown-linux-musl out=target/dist
readonly most_bytes=6000000

die() {
    printf 'dist.sh: %s\n' "$*" >&2
    exit 1
}

target_dir=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# shellcheck disable=SC2034 # used by package.sh
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0) revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
version=$(cargo metadata --locked --no-deps --format-version 1 |
    sed 's/.*"name":"campaign-sync","version":"\([^"]*\)".*/\1/')

has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

# The paths of this machine that the compilers would write into the program, as PATH=NAME; the last that fits counts.
cargo_home=${CARGO_HOME:-${HOME:?}/.cargo}
neutral_paths=("$PWD=/src" "$target_dir=/src/target" "$cargo_home=/cargo" "$(rustc --print sysroot)=/rust")

# build TRIPLE COMPILER [LINKER]: the program for that machine, as the only thing printed.
build() {
    local variables=${1//-/_} rust_flags c_flags
    rust_flags=$(printf -- '--remap-path-prefix=%s\x1f' "${neutral_paths[@]}")
    c_flags=$(printf -- '-ffile-prefix-map=%s ' "${neutral_paths[@]}")
    # The encoded flags replace all others, of the environment and of cargo's settings: these would change the bytes.
    env "CC_$variables=$2" "CFLAGS_$variables=${c_flags% }" "CARGO_ENCODED_RUSTFLAGS=${rust_flags%?}" \
        ${3:+"CARGO_TARGET_$(printf %s "$variables" | tr '[:lower:]' '[:upper:]')_LINKER=$3"} \
        cargo build --release --locked --target "$1" -p campaign-sync >&2
    printf '%s\n' "$target_dir/$1/release/campaign-sync"
}

# Static, small, and able to start with nothing around it. prove PROGRAM [STARTER…]
prove() {
    local program=$1 bytes headers help complaint code=0
    shift
    bytes=$(wc -c <"$program")
    [ "$bytes" -lt "$most_bytes" ] || die "$program: $bytes bytes, more than $most_bytes"
    # A static program names no interpreter and no libraries.
    headers=$(LC_ALL=C readelf --wide --program-headers --dynamic "$program")
    case $headers in *INTERP* | *'(NEEDED)'*) die "$program is not static: $headers" ;; esac
    help=$(env -i "$@" "$program" --help) || die "$program: --help fails"
    case $help in *sync*) ;; *) die "$program: --help says nothing of sync: $help" ;; esac
    complaint=$(env -i "$@" "$program" sync 2>&1) || code=$?
    [ "$code" = 2 ] || die "$program: sync without settings exits with $code instead of 2: $complaint"
    printf '%s: static, %s bytes\n' "$program" "$bytes"
}

# A toolchain without rustup comes from a distribution, which has the target as a package or not at all.
if ! has_target "$native"; then
    command -v rustup >/dev/null || die "this Rust toolchain has no target $native, and no rustup to add it"
    rustup target add "$native"
fi
if ! command -v musl-gcc >/dev/null; then
    install_packages apt-get=musl-tools dnf=musl-gcc yum=musl-gcc pacman=musl apk=musl-dev ||
        die "install musl-gcc (package musl-tools) and try again"
fi
compiler=$(command -v musl-gcc || command -v gcc) || die "no C compiler for $native found"

mkdir -p "$out"
built=$(build "$native" "$compiler")
cp "$built" "$out/campaign-sync.new"
mv "$out/campaign-sync.new" "$out/campaign-sync"
prove "$out/campaign-sync"
linked=$(LC_ALL=C ldd "$out/campaign-sync" 2>&1 || true)
case $linked in *'not a dynamic executable'* | *'statically linked'*) ;; *) die "not static: $linked" ;; esac
cargo run --quiet --locked --example man-page >"$out/campaign-sync.1"
if [ "${1:-}" = program ]; then exit; fi

# What an earlier version or another commit left there is no part of this one.
find "$out" -maxdepth 1 -type f ! -name campaign-sync ! -name campaign-sync.1 -delete
pack "$out/campaign-sync" "$native" amd64 x86_64

# The other machine's too, where its tools are there: they are not installed for it.
emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if has_target "$foreign" && command -v aarch64-linux-gnu-gcc >/dev/null && [ -n "$emulator" ]; then
    built=$(build "$foreign" aarch64-linux-gnu-gcc aarch64-linux-gnu-gcc)
    prove "$built" "$emulator"
    pack "$built" "$foreign" arm64 aarch64
else
    printf 'no packages for %s: they take the Rust target, aarch64-linux-gnu-gcc and qemu-aarch64\n' "$foreign"
fi
(cd "$out" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
cat "$out/SHA256SUMS"
