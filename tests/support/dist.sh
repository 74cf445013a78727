#!/usr/bin/env bash
# Builds target/dist/campaign-sync, one static program for any x86-64 Linux, proves that it is one, and packs it with its
# manual page, completions and units; for 64-bit ARM as well where the tools are there.
set -euo pipefail

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$support/../.."
# shellcheck source=tests/support/packages.sh
. "$support/packages.sh"

readonly native=x86_64-unknown-linux-musl foreign=aarch64-unknown-linux-musl out=target/dist
readonly most_bytes=6000000

die() {
    printf 'dist.sh: %s\n' "$*" >&2
    exit 1
}

target_dir=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
version=$(cargo metadata --locked --no-deps --format-version 1 |
    sed 's/.*"name":"campaign-sync","version":"\([^"]*\)".*/\1/')

has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

# build TRIPLE COMPILER [LINKER]: the program for that machine, as the only thing printed.
build() {
    local variables=${1//-/_}
    env "CC_$variables=$2" ${3:+"CARGO_TARGET_$(printf %s "$variables" | tr '[:lower:]' '[:upper:]')_LINKER=$3"} \
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

# pack PROGRAM TRIPLE: the same bytes for the same commit.
pack() {
    local name=campaign-sync-$version-$2 folder=$out/campaign-sync-$version-$2 shell
    rm -rf "$folder"
    mkdir -p "$folder/completions" "$folder/systemd"
    cp "$1" "$folder/campaign-sync"
    cp "$out/campaign-sync.1" LICENSE README.md CHANGELOG.md "$folder"
    cp src/units/* "$folder/systemd"
    for shell in bash zsh fish; do
        "$out/campaign-sync" completions "$shell" >"$folder/completions/campaign-sync.$shell"
    done
    {
        printf 'Everything that is built into the program, with its licence.\n\n'
        cargo tree --locked --target "$2" -p campaign-sync -e normal --prefix none --format '{p} {l}' |
            sed 's/ (\/[^)]*)//; s/ (\*)$//' | LC_ALL=C sort -u
    } >"$folder/DEPENDENCIES"
    (cd "$folder" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
    tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$(git log -1 --format=%ct 2>/dev/null || echo 0)" -C "$out" -cf - "$name" | gzip -n9 >"$out/$name.tar.gz"
    rm -rf "$folder"
    (cd "$out" && sha256sum "$name.tar.gz")
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
pack "$out/campaign-sync" "$native"

# The other machine's too, where its tools are there: they are not installed for it.
emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if has_target "$foreign" && command -v aarch64-linux-gnu-gcc >/dev/null && [ -n "$emulator" ]; then
    built=$(build "$foreign" aarch64-linux-gnu-gcc aarch64-linux-gnu-gcc)
    prove "$built" "$emulator"
    pack "$built" "$foreign"
else
    printf 'no tarball for %s: it takes the Rust target, aarch64-linux-gnu-gcc and qemu-aarch64\n' "$foreign"
fi
