#!/usr/bin/env bash
# Holds the dependencies and their licences against the policy in .deny.toml, by cargo-deny. Where that is not installed, one
# version is built for this checkout alone, once, below target/; where it cannot be had, that is said and is no failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly version=0.20.2

skip() {
    printf 'cargo-deny: dependencies and licences are not checked: %s\n' "$*" >&2
    exit 0
}

target_dir=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
readonly tools=$target_dir/tools
readonly ours=$tools/bin/cargo-deny

# Quick to build rather than quick to run: it runs for a second.
build() {
    printf 'cargo-deny is not installed: building version %s below %s, once, for a minute or two\n' "$version" "$tools" >&2
    # Networks that answer nothing are not waited for.
    if ! env CARGO_PROFILE_DEV_DEBUG=false CARGO_NET_RETRY=1 CARGO_HTTP_TIMEOUT=10 \
        cargo install cargo-deny --version "=$version" --locked --debug --quiet --root "$tools" \
        --target-dir "$tools/build" >"$tools/build.log" 2>&1; then
        tail -n 3 "$tools/build.log" >&2
        return 1
    fi
    rm -rf "$tools/build"
}

if [ "$("$ours" --version 2>/dev/null)" = "cargo-deny $version" ]; then
    deny=("$ours")
elif cargo deny --version >/dev/null 2>&1; then
    deny=(cargo deny)
else
    mkdir -p "$tools"
    build || skip "it is not installed, and building it has failed (cargo install cargo-deny --locked)"
    deny=("$ours")
fi
# It reads every dependency's source, those for other systems too, which no build here has fetched.
if ! cargo metadata --locked --offline --format-version 1 >/dev/null 2>&1; then
    CARGO_NET_RETRY=1 CARGO_HTTP_TIMEOUT=10 cargo fetch --locked --quiet >&2 || skip "their sources cannot be fetched"
fi
"${deny[@]}" --offline --config .deny.toml check bans licenses sources
