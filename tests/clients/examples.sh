#!/usr/bin/env bash
# Runs each example (the directory of the built ones is the argument), asks it what its first lines say
# to ask, and expects it to end when it is interrupted.
set -euo pipefail
examples=$1
here=$(dirname "$0")
scratch=$(mktemp -d)
running=''
trap '[ -z "$running" ] || kill -9 "$running" 2>/dev/null || true; rm -rf "$scratch"' EXIT

fail() { echo "$*" >&2; exit 1; }

listens() { (exec 3<>/dev/tcp/127.0.0.1/3000) 2>/dev/null; }

# start EXAMPLE ARGUMENTS...
start() {
    for _ in $(seq 200); do listens || break; sleep 0.1; done # somebody else may have the port for a moment
    "$examples/$1" "${@:2}" >"$scratch/said" &
    running=$!
    for _ in $(seq 100); do
        if listens; then
            kill -0 "$running" 2>/dev/null || fail "$1 has ended, and somebody else listens on port 3000"
            return
        fi
        sleep 0.05
    done
    fail "$1 does not listen on port 3000"
}

# expect TEXT CURL-ARGUMENTS...
expect() {
    local text=$1 answer
    shift
    answer=$(curl --silent --show-error --max-time 5 "$@")
    [[ $answer == *"$text"* ]] || fail "asked $*: expected '$text', got '$answer'"
}

# refused CURL-ARGUMENTS...
refused() {
    if curl --silent --max-time 5 --output /dev/null "$@"; then fail "asked $*: expected no answer"; fi
}

# said TEXT: on stdout, within a second
said() {
    for _ in $(seq 20); do grep -q -- "$1" "$scratch/said" && return; sleep 0.05; done
    fail "expected '$1' to be said, got '$(cat "$scratch/said")'"
}

# does_not_start TEXT EXAMPLE ARGUMENTS...: with exit code 2, and TEXT on stderr
does_not_start() {
    local code=0
    timeout 5 "$examples/$2" "${@:3}" >/dev/null 2>"$scratch/error" || code=$?
    [ "$code" = 2 ] || fail "expected exit code 2, got $code"
    grep -qF -- "$1" "$scratch/error" || fail "expected '$1', got '$(cat "$scratch/error")'"
}

# drains PATH EXAMPLE TEXT: who has asked for PATH reads TEXT whole, and that the connection ends
drains() {
    curl --silent --show-error --include --no-buffer --max-time 8 "http://127.0.0.1:3000$1" >"$scratch/slow" &
    local slow=$!
    sleep 0.5
    stop "$2"
    wait "$slow" || fail "$2 has cut $1"
    grep -q "$3" "$scratch/slow" || fail "expected '$3' of $1, got '$(cat "$scratch/slow")'"
}

stop() {
    kill -INT "$running"
    ended "$1"
}

ended() {
    wait "$running" || fail "$1 has ended with $?"
    running=''
    echo "ok $1"
}

asks() { /usr/bin/python3 "$here/examples.py" "$@"; }

start axum_all
expect 'hello 127.0.0.1:' http://127.0.0.1:3000/
expect 'hello 127.0.0.1:' --http2-prior-knowledge http://127.0.0.1:3000/
expect ok http://127.0.0.1:3000/readyz
expect '<h1 id="phase">serving</h1>' http://127.0.0.1:3000/status
expect '{"phase":"serving"' 'http://127.0.0.1:3000/status?format=json'
drains /slow axum_all 'hello at last'
grep -qi 'connection: close' "$scratch/slow"
said 'none was cut'

start axum_events_drain
drains /events axum_events_drain 'text/event-stream'

start axum_websocket_drain
asks websocket "$running"
ended axum_websocket_drain
said 'none was cut'

start config_file
expect 'hello from a file' http://127.0.0.1:3000/
expect 'keep-alive: timeout=19' --include http://127.0.0.1:3000/
said 'write_timeout = 10s'
stop config_file
APP_KEEP_ALIVE_TIMEOUT=7s start config_file
expect 'keep-alive: timeout=6' --include http://127.0.0.1:3000/
stop config_file
wrong='APP_WRITE_TIMEOUT = "soon": expected a duration such as 5s'
APP_WRITE_TIMEOUT=soon does_not_start "$wrong" config_file
sed 's/"20s"/"soon"/' "$here/../../examples/config_file.toml" >"$scratch/wrong.toml"
does_not_start 'keep_alive_timeout = "soon": expected a duration such as 5s' config_file "$scratch/wrong.toml"
does_not_start 'missing.toml: No such file' config_file missing.toml

start connection_limit
for _ in $(seq 20); do exec {silent}<>/dev/tcp/127.0.0.1/3000; done
sleep 0.1
expect '8 open, 13 made room, 0 rejected' http://127.0.0.1:3000/
expect '127.0.0.1: 8' http://127.0.0.1:3000/
stop connection_limit

start hyper_auto
expect 'this is request 1' http://127.0.0.1:3000/
expect 'in HTTP/2.0' --http2-prior-knowledge http://127.0.0.1:3000/
for n in $(seq 60); do echo "x-$n: $n"; done >"$scratch/headers"
expect ' 431 ' --include --header "@$scratch/headers" http://127.0.0.1:3000/
stop hyper_auto

start hyper_http1
expect hello http://127.0.0.1:3000/
refused --http2-prior-knowledge http://127.0.0.1:3000/
drains / hyper_http1 hello
grep -qi 'connection: close' "$scratch/slow"

start hyper_http2
expect 'hello, 1 in flight' --http2-prior-knowledge http://127.0.0.1:3000/
refused --http1.1 http://127.0.0.1:3000/
h2load -n 1000 -m 100 http://127.0.0.1:3000/ >"$scratch/load"
grep -q ' 1000 succeeded, 0 failed' "$scratch/load"
stop hyper_http2

start own_layer
expect hello --user-agent - http://127.0.0.1:3000/
said '127.0.0.1:[0-9]* has sent [1-9][0-9]* bytes'
stop own_layer

start own_limit
expect '"server_requests_limit":4' 'http://127.0.0.1:3000/status?format=json'
h2load --h1 -n 400 -c 200 http://127.0.0.1:3000/ >"$scratch/load"
grep -qE ' [1-9][0-9]* 2xx, .* [1-9][0-9]* 5xx' "$scratch/load" || fail "$(cat "$scratch/load")"
expect 'hello' http://127.0.0.1:3000/paying
expect '"server_requests_waiting":0' 'http://127.0.0.1:3000/status?format=json'
stop own_limit

start prometheus
expect '# HELP server_connections_open Connections that are open' http://127.0.0.1:3000/metrics
expect 'server_connections_open 1' http://127.0.0.1:3000/metrics
asks dashboard "$here/../../examples/grafana.json"
stop prometheus

start proxy_protocol
expect 'hello 127.0.0.1:' --haproxy-protocol http://127.0.0.1:3000/
status=0
curl --silent --max-time 5 http://127.0.0.1:3000/ || status=$?
[ "$status" = 56 ] || fail "asked without a header: expected a reset (56), got $status"
# as CLIENT TEXT: looks for it in the first line of the answer to a client of that address, on a connection that stays open
as() {
    local answer
    exec {client}<>/dev/tcp/127.0.0.1/3000
    printf 'PROXY TCP4 %s 192.0.2.1 56324 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n' "$1" >&"$client"
    read -r -t 5 answer <&"$client"
    [[ $answer == *"$2"* ]] || fail "asked as $1: expected '$2', got '$answer'"
}
as 203.0.113.7 ' 200 '
as 203.0.113.7 ' 200 '
as 203.0.113.7 ' 503 '
as 203.0.113.8 ' 200 '
stop proxy_protocol

start reuse_port
"$examples/reuse_port" >/dev/null &
second=$!
for n in $(seq 100); do
    [ "$n" -lt 100 ] || fail 'the second process does not answer'
    [ "$(curl --silent --max-time 5 http://127.0.0.1:3000/)" != "hello from $second" ] || break
done
stop reuse_port
running=$second
expect "hello from $second" http://127.0.0.1:3000/
stop reuse_port

asks systemd "$examples/systemd"
echo 'ok systemd'

start timeouts
expect 'keep-alive: timeout=4, max=999' --include http://127.0.0.1:3000/
expect 'request 2 on this connection' http://127.0.0.1:3000/ http://127.0.0.1:3000/
expect 'request 1 on this connection' http://127.0.0.1:3000/bye http://127.0.0.1:3000/
stop timeouts

start tls
expect 'hello in HTTP/1.1, over TLS' --insecure --http1.1 https://127.0.0.1:3000/
expect 'hello in HTTP/2.0, over TLS' --insecure --http2 https://127.0.0.1:3000/
refused http://127.0.0.1:3000/
stop tls

start tonic
expect hello http://127.0.0.1:3000/
asks grpc "$running"
ended tonic
said 'none was cut'

start unix_socket
expect 'you came by 127.0.0.1:3000' http://127.0.0.1:3000/
expect 'you came by unix:/' --unix-socket "${TMPDIR:-/tmp}/hello.sock" http://hello/
stop unix_socket
