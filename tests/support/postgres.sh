#!/usr/bin/env bash
# A throwaway Postgres for the tests and the demo.
#
#   postgres.sh install                 find the server's programs, or install them with the package manager
#   postgres.sh bin                     print the directory of the server's programs
#   postgres.sh serve DIR [OPTION…]     run a new cluster until stdin closes or a signal comes
#   postgres.sh with PREFIX [OPTION…] -- COMMAND…
#                                       run COMMAND beside a new cluster (in PREFIX.xxxxxx), its address in $POSTGRES_URL
#
# OPTION is `--tls CERT KEY`, `--file NAME PATH` (a file to put beside the data), `--hba LINE` (instead of what pg_hba.conf has),
# `--standby-of URL` (a streaming standby of that cluster) or `-c setting=value`. DIR must not exist yet, or be empty; it is removed at the end.
# `serve` prints `ready postgres://…` and then obeys lines on stdin: `stop`, `crash` (no shutdown checkpoint; both
# answer `stopped`), `start` (answers `ready …`, same address), `quit`.
#
# POSTGRES_BIN may name the directory of the programs to use.
set -euo pipefail
# Settings of the caller's own databases must not reach this one.
for name in ${!PG@}; do unset "$name"; done

readonly OLDEST=13 # the oldest major version that the program supports
self=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
readonly self
# shellcheck source=tests/support/processes.sh
. "$(dirname "$self")/processes.sh"

say() { printf 'postgres.sh: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

# --- the server's programs -------------------------------------------------------------------------------------------

major_version() { "$1/postgres" --version 2>/dev/null | sed -E 's/^[^0-9]*([0-9]+).*/\1/'; }

# The directory with the newest server that is new enough; fails when there is none.
find_bin() {
    local dir best='' newest=0 version found
    local -a places
    found=$(command -v initdb || true)
    # A link in PATH leads to the directory that has psql too.
    [ -z "$found" ] || found=$(dirname "$(readlink -f "$found" 2>/dev/null || printf %s "$found")")
    places=("$found" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* /usr/lib/postgresql*/bin
        /usr/local/pgsql/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /opt/local/lib/postgresql*/bin)
    [ -z "${POSTGRES_BIN:-}" ] || places=("$POSTGRES_BIN")
    for dir in "${places[@]}"; do
        if [ ! -x "$dir/initdb" ] || [ ! -x "$dir/postgres" ]; then continue; fi
        version=$(major_version "$dir")
        if [ "${version:-0}" -ge "$OLDEST" ] && [ "$version" -gt "$newest" ]; then
            best=$dir newest=$version
        fi
    done
    [ -n "$best" ] && printf '%s\n' "$best"
}

install_server() {
    # shellcheck source=tests/support/packages.sh
    . "$(dirname "$self")/packages.sh"
    local before
    if find_bin >/dev/null; then return; fi
    say "no Postgres server ($OLDEST or later) found; installing the distribution's package"
    before=$(ls -d /etc/postgresql/*/main 2>/dev/null || true)
    install_packages \
        apt-get=postgresql dnf=postgresql-server yum=postgresql-server zypper=postgresql-server \
        apk=postgresql pacman=postgresql brew=postgresql ||
        die "install a Postgres server, version $OLDEST or later, and try again"
    # Debian's package makes and starts a cluster of its own, which nobody asked for.
    if [ -z "$before" ] && command -v pg_dropcluster >/dev/null; then
        local cluster
        for cluster in /etc/postgresql/*/main; do
            [ -d "$cluster" ] || continue
            "${as_root[@]}" pg_dropcluster --stop "$(basename "$(dirname "$cluster")")" main >/dev/null 2>&1 || true
        done
    fi
    find_bin >/dev/null || die "the package has no server of version $OLDEST or later; set POSTGRES_BIN to one"
    say "installed: $("$(find_bin)/postgres" --version)"
}

# --- one cluster -----------------------------------------------------------------------------------------------------

# Prefixes that start a program as the server's user, and (where it can be had) bound to the life of this script
# even if that is killed outright.
as_server=() bound=()

choose_prefixes() {
    local user=''
    if setpriv --help 2>&1 | grep -q pdeathsig; then bound=(setpriv --pdeathsig INT --); else bound=(env); fi
    as_server=(env)
    [ "$(id -u)" = 0 ] || return 0
    # The server refuses to run as root.
    for user in postgres nobody; do
        if id "$user" >/dev/null 2>&1; then break; fi
    done
    if setpriv --help 2>&1 | grep -q reuid; then
        as_server=(setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --init-groups --)
        # A change of user clears the bond, so it is made in the same call.
        bound=("${as_server[@]:0:${#as_server[@]}-1}" --pdeathsig INT --)
    elif command -v runuser >/dev/null; then
        as_server=(runuser -u "$user" --)
        bound=("${as_server[@]}")
    else
        as_server=("$BASH" "$self" su-exec "$user")
        bound=("${as_server[@]}")
    fi
    [ $# -eq 0 ] || chown "$user" "$@"
}

su_exec() {
    local user=$1
    shift
    exec su -s "$BASH" "$user" -c "exec $(printf '%q ' "$@")"
}

home='' data='' sockets='' spare='' bin='' port='' password='' server='' primary=''
settings=()

# A directory that the server's user can reach, even if the checkout is in root's own home.
make_home() {
    mkdir -p "$1"
    home=$(cd "$1" && pwd)
    [ -z "$(ls -A "$home")" ] || die "$home is not empty"
    cd / # the server's user may not be allowed to stay here
    choose_prefixes "$home"
    if ! (run_as_server test -w "$home" -a -x "$home") 2>/dev/null; then
        spare=$(mktemp -d "${TMPDIR:-/tmp}/campaign-sync-pg.XXXXXX")
        choose_prefixes "$spare"
    fi
    data=${spare:-$home}/data
    sockets=${spare:-$home}
    # The path of a socket ends at 103 to 107 bytes, depending on the system.
    if [ ${#sockets} -gt 85 ]; then
        [ -n "$spare" ] || spare=$(mktemp -d /tmp/campaign-sync-pg.XXXXXX)
        sockets=$spare
        choose_prefixes "$spare"
    fi
    chmod 0700 "${spare:-$home}"
}

run_as_server() { "${as_server[@]}" "$@"; }

# By way of the shell, for the file to belong to the server's user.
# shellcheck disable=SC2016 # for the inner shell
write_as_server() { run_as_server sh -c 'umask 077 && cat >"$1"' sh "$1"; }

copy_primary() {
    password=${primary#*://*:} password=${password%%@*}
    if ! run_as_server "$bin/pg_basebackup" -d "$primary" -D "$data" -R -X stream -c fast --no-sync \
        >"$home/basebackup.log" 2>&1; then
        tail -n 20 "$home/basebackup.log" >&2
        die "pg_basebackup failed"
    fi
}

init_cluster() {
    local words
    if [ -n "$primary" ]; then
        copy_primary
        return
    fi
    words=$(od -An -N16 -tx1 /dev/urandom)
    password=${words//[^0-9a-f]/}
    write_as_server "$data.password" <<<"$password"
    if ! run_as_server "$bin/initdb" -D "$data" -U postgres --auth-local=trust --auth-host=scram-sha-256 \
        --pwfile="$data.password" --encoding=UTF8 --locale=C --no-sync >"$home/initdb.log" 2>&1; then
        tail -n 20 "$home/initdb.log" >&2
        die "initdb failed"
    fi
}

# Names and paths by turns.
copy_files() {
    while [ $# -gt 0 ]; do
        write_as_server "$data/$1" <"$2"
        shift 2
    done
}

launch() {
    rm -f "$data/postmaster.pid"
    : >"$home/server.log"
    (
        trap - INT QUIT
        exec "${apart[@]}" "${bound[@]}" "$bin/postgres" -D "$data" -p "$port" \
            -c listen_addresses=127.0.0.1 -c unix_socket_directories="$sockets" -c timezone=UTC \
            -c max_connections=200 -c shared_buffers=64MB -c fsync=off -c full_page_writes=off \
            ${settings[@]+"${settings[@]}"} </dev/null >"$home/server.log" 2>&1
    ) &
    server=$!
}

# Until the server says `ready` in its pid file, or `standby`; fails when it ends first.
await_ready() {
    local deadline=$((SECONDS + 60)) state=''
    until [ "$state" = ready ] || [ "$state" = standby ]; do
        if ! kill -0 "$server" 2>/dev/null; then return 1; fi
        [ $SECONDS -lt $deadline ] || die "the server is not ready after 60 s"
        sleep 0.02
        state=$(sed -n '8s/ *$//p' "$data/postmaster.pid" 2>/dev/null || true)
    done
}

# Starts on the port it had before, else on a free one: who else wants it is found out by trying.
start_server() {
    local fixed=$port attempt
    for attempt in $(seq 100); do
        # Below the range that systems take the ports of outgoing connections from.
        [ -n "$fixed" ] || port=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
        launch
        if await_ready; then
            printf 'ready postgres://postgres:%s@127.0.0.1:%s/postgres\n' "$password" "$port"
            return
        fi
        wait "$server" || true
        server=''
        grep -q 'could not bind' "$home/server.log" || break
        [ -z "$fixed" ] || sleep 0.1
    done
    tail -n 20 "$home/server.log" >&2
    die "the server did not start (attempt $attempt)"
}

# SIGINT is a fast shutdown, SIGQUIT one without a checkpoint; a server that obeys neither is killed.
stop_server() {
    local signal pid deadline
    [ -n "$server" ] || return 0
    for signal in "$1" QUIT KILL; do
        # The first line of the file: `su` and its like stay in between as a process of their own.
        pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null || true)
        kill -"$signal" "${pid:-$server}" 2>/dev/null || true
        deadline=$((SECONDS + 10))
        while kill -0 "$server" 2>/dev/null && [ $SECONDS -le $deadline ]; do sleep 0.02; done
        kill -0 "$server" 2>/dev/null || break
    done
    wait "$server" 2>/dev/null || true
    server=''
}

clean_up() {
    trap '' INT TERM HUP PIPE
    [ -z "$data" ] || stop_server INT
    if [ -n "$home" ]; then rm -rf "$home"; fi
    if [ -n "$spare" ]; then rm -rf "$spare"; fi
}

serve() {
    local dir=${1:?serve needs a directory} line
    local -a files hba
    files=() hba=()
    shift
    while [ $# -gt 0 ]; do
        case $1 in
        --tls)
            files+=(server.crt "$(realpath "${2:?}")" server.key "$(realpath "${3:?}")")
            settings+=(-c ssl=on)
            shift 3
            ;;
        --file) files+=("${2:?}" "$(realpath "${3:?}")") && shift 3 ;;
        --standby-of) primary=${2:?} && shift 2 ;;
        --hba) hba+=("${2:?}") && shift 2 ;;
        -c) settings+=(-c "${2:?}") && shift 2 ;;
        *) die "unknown option $1" ;;
        esac
    done
    bin=$(find_bin) || die "no Postgres server found: $self install"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    trap 'exit 141' PIPE
    make_home "$dir"
    init_cluster
    copy_files ${files[@]+"${files[@]}"}
    [ ${#hba[@]} -eq 0 ] || printf '%s\n' "${hba[@]}" | write_as_server "$data/pg_hba.conf"
    start_server
    while read -r line; do
        case $line in
        stop) stop_server INT && echo stopped ;;
        crash) stop_server QUIT && echo stopped ;;
        start) start_server ;;
        quit) break ;;
        *) die "unknown command $line" ;;
        esac
    done
}

# --- a command beside a cluster --------------------------------------------------------------------------------------

with_server() {
    local dir=${1:?with needs a path} word='' code=0 cluster
    local -a options
    options=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1") && shift; done
    [ $# -gt 1 ] || die "with needs -- and a command"
    shift
    mkdir -p "$(dirname "$dir")"
    dir=$(mktemp -d "$(cd "$(dirname "$dir")" && pwd)/$(basename "$dir").XXXXXX")
    chmod 0755 "$dir" # the server's user passes through
    trap 'trap "" INT TERM HUP; rm -rf "$dir"' EXIT
    pass_signals_on
    mkfifo "$dir/to" "$dir/from"
    # Its stdin closes when this script ends, in whatever way: then the cluster ends too.
    (
        trap - INT QUIT TERM HUP
        exec "${apart[@]}" "$BASH" "$self" serve "$dir/cluster" ${options[@]+"${options[@]}"} <"$dir/to" >"$dir/from"
    ) &
    cluster=$!
    exec 8>"$dir/to" 9<"$dir/from"
    read -r word POSTGRES_URL <&9 || true
    export POSTGRES_URL
    if [ -n "$signalled" ]; then
        code=$((128 + $(kill -l "$signalled")))
    elif [ "$word" = ready ]; then
        run_apart "$@" 8>&- 9<&- || code=$?
    else
        code=1
    fi
    exec 8>&-
    wait "$cluster" 2>/dev/null || true
    exit "$code"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
install) install_server ;;
bin) find_bin || die "no Postgres server found: $self install" ;;
serve) serve "$@" ;;
with) with_server "$@" ;;
su-exec) su_exec "$@" ;;
*) die "usage: postgres.sh install|bin|serve|with" ;;
esac
