#!/bin/bash
# Sourced by the job scripts of this folder. Slurm sends its signals to the shell of a job: it passes them on to the
# command, waits until that has ended, and puts the job back into the queue if the command's time was up (exit code 75).
program=
trap 'stop USR1 75' USR1
trap 'stop TERM 130' TERM
trap 'kill $(jobs -p) 2>/dev/null' EXIT

# stop SIGNAL CODE: signals the command, or ends the job if the command has not started
stop() {
    if [ -n "$program" ]; then kill -"$1" "$program"; else finish "$2"; fi
}

# finish CODE: ends the job; the bare id of an array would requeue all of its tasks
finish() {
    local job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    if [ "$1" -eq 75 ]; then scontrol requeue "$job"; fi
    exit "$1"
}

# run COMMAND...: runs the command and ends the job with its exit code
run() {
    "$@" &
    program=$!
    while kill -0 "$program" 2>/dev/null; do wait "$program"; done
    wait "$program"
    finish "$?"
}

# search OPTIONS...: starts the search NAME with the options, or resumes it if it exists; "extra" holds options for both
search() {
    if [ -e "$RESULTS/$NAME/search.json" ]; then set -- --resume "$NAME"; else set -- --name "$NAME" "$@"; fi
    run longtail-tune search "$@" --output "$RESULTS" "${extra[@]}"
}
