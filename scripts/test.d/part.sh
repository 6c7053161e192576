# Runs the parts of scripts/test, counts what passed, and remembers what a full run has done.
# Sourced by scripts/test; does not know what the parts are.
# shellcheck shell=bash

readonly PART_TIMEOUT=8h # over twice the longest part, fuzzing in full; one that hangs must end
readonly LOGS=target/test-logs
readonly STATE=target/full-state # first the commit, then a line `PART PASSED` for each part done
passed=0 failed=0 not_run=()

start_run() {
    local commit
    commit=$(git describe --always --dirty --abbrev=40 2>/dev/null || echo unknown-dirty)
    mkdir -p "$LOGS"
    # Only a clean commit says what was tested.
    if [[ $commit = *-dirty ]] || ! grep -qsx "commit $commit" "$STATE"; then
        echo "commit $commit" >"$STATE"
    fi
}

# done_before NAME: whether an earlier full run did this part; adds its count.
done_before() {
    local count
    count=$(sed -n "s/^$1 //p" "$STATE" | tail -n 1)
    [ -n "$count" ] || return 1
    passed=$((passed + count))
    echo "$1: $count passed in an earlier run of this commit"
}

# part NAME COMMAND…: runs it with its output in a log.
part() {
    local name=$1 log=$LOGS/$1.log started=$SECONDS ok bad failures
    shift
    local ended=0
    printf '%s: ' "$name"
    timeout "$PART_TIMEOUT" "$@" >"$log" 2>&1 || ended=$?
    # A line of libtest, or of scripts/fuzz (TARGET: N executions).
    ok=$(awk '/^test result: / { n += $4 } / executions$/ { n++ } END { print n + 0 }' "$log")
    bad=$(awk '/^test result: / { n += $6 } END { print n + 0 }' "$log")
    # A part that runs nothing has failed; only the docs have no examples yet.
    if [ "$ok" -eq 0 ] && [ "$name" != doc ]; then ended=1; fi
    if [ "$ended" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + ok)) failed=$((failed + bad))
    mapfile -t -O "${#not_run[@]}" not_run < <(grep '^NOT RUN: ' "$log" | sort -u)
    echo "$ok passed, $bad failed, $((SECONDS - started)) s"
    if [ "$bad" -gt 0 ]; then
        echo "--- from $log:"
        # libtest lists what failed at the end; another failure has only its last lines.
        failures=$(sed -n '/^failures:$/,$p' "$log" | tail -n 80)
        echo "${failures:-$(tail -n 40 "$log")}"
    else
        echo "$name $ok" >>"$STATE"
    fi
}

# finish_run: says what did not run and why, and whether that is acceptable here.
finish_run() {
    local line
    for line in "${not_run[@]}"; do
        echo "$line"
        # Root with the device can mount, so a mount test that did not run is a fault of the test.
        if [ "$(id -u)" -eq 0 ] && [ -c /dev/fuse ] && [[ $line = *mount* || $line = *fuse* ]]; then
            echo "  ... but this machine can mount: counted as failed"
            failed=$((failed + 1))
        fi
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
