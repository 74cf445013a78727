#!/usr/bin/env bash
# The whole job for the eye: a mock of the ad platform, a throwaway Postgres, and one sync from the one to the other.
#
#   demo.sh run       leaves nothing behind
#   demo.sh db        leaves the database up, in target/demo-db
#   demo.sh db-stop   ends it
#
# FAITHFUL=1 runs the API in real time (about 11 minutes) instead of 20 times as fast (about 35 seconds).
set -euo pipefail
# The demo is the same for everybody, whatever they have configured for their own work.
for name in ${!AD_PLATFORM@} ${!CAMPAIGN_SYNC@} ${!PG@} DATABASE_URL CREDENTIALS_DIRECTORY; do unset "$name"; done
export CAMPAIGN_SYNC_CONFIG=/dev/null

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$support/../.." && pwd)
readonly support root
readonly postgres=$support/postgres.sh database_dir=$root/target/demo-db
# shellcheck source=tests/support/processes.sh
. "$support/processes.sh"

die() {
    printf 'demo.sh: %s\n' "$*" >&2
    exit 1
}

build() {
    "$postgres" install
    cd "$root"
    cargo build --release --locked -p campaign-sync -p mock-api
    programs=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release
    export programs
}

# The mock of the API, until this script ends in whatever way: then its stdin closes.
start_mock() {
    local scale=20 line='' pipes
    [ "${FAITHFUL:-0}" = 0 ] || scale=1
    pipes=$(mktemp -d "$root/target/demo-mock.XXXXXX")
    mkfifo "$pipes/to" "$pipes/from"
    (
        trap - INT QUIT
        exec "${apart[@]}" "$programs/mock-api" --profile faithful --time-scale "$scale" --port 0 --exit-with-stdin \
            <"$pipes/to" >"$pipes/from"
    ) &
    exec 7>"$pipes/to" 6<"$pipes/from"
    rm -r "$pipes"
    read -r line <&6 || true
    api=${line#listening on }
    [ "$api" != "$line" ] || die "the mock does not start"
    printf '\n100 campaigns behind 10 requests a minute, at %s times the speed of real life\n' "$scale" >&2
}

# One sync from the mock to $POSTGRES_URL, and a look at the rows; its exit code is the sync's.
job() {
    local code=0
    start_mock
    # Signals reach the program by themselves; what it does then is a part of the demo.
    trap : INT TERM HUP
    AD_PLATFORM_API_URL=$api AD_PLATFORM_EMAIL=ads@example.com AD_PLATFORM_PASSWORD=correct-horse-battery-staple \
        DATABASE_URL=$POSTGRES_URL "$programs/campaign-sync" sync --progress auto 6<&- 7>&- || code=$?
    exec 7>&- 6<&-
    look || true
    return "$code"
}

look() {
    local psql
    psql=$("$postgres" bin)/psql
    [ -x "$psql" ] || psql=$(command -v psql) || return 0
    printf '\n'
    PGOPTIONS="-c search_path=campaign_sync,public" "$psql" -XqP pager=off "$POSTGRES_URL" \
        -c 'SELECT id, name, status, budget, impressions, synced_at FROM campaigns ORDER BY id LIMIT 5' \
        -c 'SELECT count(*) FROM campaigns'
}

database_up() {
    [ -s "$database_dir/url" ] || return 1
    POSTGRES_URL=$(cat "$database_dir/url")
    export POSTGRES_URL
    "$("$postgres" bin)/psql" -Xqc 'SELECT' "$POSTGRES_URL" >/dev/null 2>&1
}

# Runs without this script, and without the terminal, until `stop_database`.
start_database() {
    local word='' url=''
    mkdir "$database_dir" 2>/dev/null || die "another demo-db is just starting"
    mkfifo "$database_dir/orders" "$database_dir/answers"
    (
        trap - INT QUIT
        trap '' HUP
        # Open for writing too: its stdin never ends by itself.
        exec "${apart[@]}" "$BASH" "$postgres" serve "$database_dir/cluster" \
            <>"$database_dir/orders" >"$database_dir/answers" 2>"$database_dir/log"
    ) &
    printf '%s\n' $! >"$database_dir/pid"
    read -r word url <"$database_dir/answers" || true
    if [ "$word" != ready ]; then
        cat "$database_dir/log" >&2
        rm -rf "$database_dir"
        die "the database does not start"
    fi
    (umask 077 && printf '%s\n' "$url" >"$database_dir/url")
    export POSTGRES_URL=$url
}

stop_database() {
    local deadline=$((SECONDS + 30))
    [ -d "$database_dir" ] || return 0
    # Open for reading too: nobody may be there to listen any more.
    [ ! -p "$database_dir/orders" ] || printf 'quit\n' 1<>"$database_dir/orders"
    while [ -d "$database_dir/cluster" ] && kill -0 "$(cat "$database_dir/pid")" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || die "the database does not end"
        sleep 0.1
    done
    rm -rf "$database_dir"
}

database() {
    local code=0
    build
    if ! database_up; then
        stop_database
        pass_signals_on
        trap stop_database EXIT
        start_database
        run_apart "$BASH" "$support/demo.sh" job || code=$?
        [ "$code" = 0 ] || exit "$code"
        trap - EXIT
    fi
    printf '\nThe database is up. To look into it:\n\n    PGOPTIONS="-c search_path=campaign_sync" psql %s\n\nTo end and remove it:\n\n    make demo-db-stop\n\n' \
        "$POSTGRES_URL"
}

case ${1:-} in
run)
    build
    exec "$postgres" with "$root/target/demo" -- "$BASH" "$support/demo.sh" job
    ;;
job) job ;;
db) database ;;
db-stop) stop_database ;;
*) die 'usage: demo.sh run|db|db-stop' ;;
esac
