#!/usr/bin/env bash
# Starting processes that Ctrl-C does not reach, and passing it on to those that it should reach. To be sourced.
#
# A background command of a script ignores SIGINT, and so does all it starts; hence always
#   (trap - INT QUIT; exec "${apart[@]}" COMMAND) &

# Prefix: in a session of its own, out of reach of the terminal's signals.
if command -v setsid >/dev/null; then
    apart=(setsid)
else
    apart=(perl -e 'use POSIX; POSIX::setsid(); exec @ARGV or die "$!"' --)
fi
readonly apart

apart_job='' signalled=''

# From now on a signal goes to all processes of the command of `run_apart`, once, and is noted in $signalled.
pass_signals_on() {
    trap 'pass_on INT' INT
    trap 'pass_on TERM' TERM
    trap 'pass_on HUP' HUP
}

# shellcheck disable=SC2317 # called by the traps
pass_on() {
    signalled=$1
    [ -n "$apart_job" ] || return 0
    # Until it has a session of its own, there is no such group.
    kill -"$1" -- "-$apart_job" 2>/dev/null || kill -"$1" "$apart_job" 2>/dev/null || true
}

# Runs a command to its end and returns its exit code, however many signals come meanwhile.
run_apart() {
    local code
    (
        trap - INT QUIT TERM HUP
        exec "${apart[@]}" "$@" </dev/null
    ) &
    apart_job=$!
    while signalled='' code=0 && { wait "$apart_job" || code=$?; } && [ -n "$signalled" ]; do :; done
    apart_job=''
    return "$code"
}
