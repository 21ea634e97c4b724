#!/usr/bin/env bash
# Runs each example (the directory of the built ones is the argument), asks it what its first lines say
# to ask, and expects it to end when it is interrupted.
set -euo pipefail
examples=$1
running=''
trap '[ -z "$running" ] || kill -9 "$running" 2>/dev/null || true' EXIT

start() {
    "$examples/$1" >/dev/null &
    running=$!
    for _ in $(seq 100); do
        (exec 3<>/dev/tcp/127.0.0.1/3000) 2>/dev/null && return
        sleep 0.05
    done
    echo "$1 does not listen on port 3000" >&2
    exit 1
}

# expect TEXT CURL-ARGUMENTS...
expect() {
    local text=$1 answer
    shift
    answer=$(curl --silent --show-error --max-time 5 "$@")
    [[ $answer == *"$text"* ]] || { echo "asked $*: expected '$text', got '$answer'" >&2; exit 1; }
}

stop() {
    kill -INT "$running"
    wait "$running"
    running=''
    echo "ok $1"
}

start axum
expect 'hello 127.0.0.1:' http://127.0.0.1:3000/
expect 'hello 127.0.0.1:' --http2-prior-knowledge http://127.0.0.1:3000/
stop axum

start connection_limit
for _ in $(seq 20); do exec {silent}<>/dev/tcp/127.0.0.1/3000; done
sleep 0.1
expect '8 open, 13 made room, 0 rejected' http://127.0.0.1:3000/
expect '127.0.0.1: 8' http://127.0.0.1:3000/
stop connection_limit

start drain_hyper_loop
expect hello http://127.0.0.1:3000/
curl --silent --show-error --include --max-time 8 http://127.0.0.1:3000/slow >"${TMPDIR:-/tmp}/slow" &
slow=$!
sleep 0.5
stop drain_hyper_loop
wait "$slow"
grep -qi 'connection: close' "${TMPDIR:-/tmp}/slow" && grep -q hello "${TMPDIR:-/tmp}/slow"

start drain_websockets
expect ok http://127.0.0.1:3000/readyz
stop drain_websockets

start hyper_auto
expect 'this is request 1' http://127.0.0.1:3000/
expect 'this is request 1' --http2-prior-knowledge http://127.0.0.1:3000/
stop hyper_auto

start listeners
expect hello http://127.0.0.1:3000/
expect hello --unix-socket "${TMPDIR:-/tmp}/hello.sock" http://hello/
stop listeners

start overload
expect hello http://127.0.0.1:3000/
h2load --h1 -n 400 -c 40 http://127.0.0.1:3000/ >"${TMPDIR:-/tmp}/load"
grep -q ' 0 failed, 0 errored' "${TMPDIR:-/tmp}/load" || grep -q '5xx' "${TMPDIR:-/tmp}/load"
expect 'in flight, 0 waiting' http://127.0.0.1:3000/load
expect hello http://127.0.0.1:3000/paying
stop overload

start reuse_port
expect hello http://127.0.0.1:3000/
stop reuse_port

start systemd
expect hello http://127.0.0.1:3000/
stop systemd

start timeouts
expect 'keep-alive: timeout=4, max=999' --include http://127.0.0.1:3000/
expect 'request 2 on this connection' http://127.0.0.1:3000/ http://127.0.0.1:3000/
expect 'request 1 on this connection' http://127.0.0.1:3000/bye http://127.0.0.1:3000/
stop timeouts

start tls
expect hello --insecure --http1.1 https://127.0.0.1:3000/
expect hello --insecure --http2 https://127.0.0.1:3000/
stop tls

start write_your_own_layer
expect hello http://127.0.0.1:3000/
kill -9 "$running"
wait "$running" 2>/dev/null || true
running=''
echo 'ok write_your_own_layer'
