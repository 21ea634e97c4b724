//! What all layers cost together, and what becomes of it when thousands of clients come: `cargo bench -p conformance --bench headline`.
//!
//! A small static response over HTTP/1, asked for by `wrk` on one core; the server has the other. Bare axum and bare hyper,
//! and each with every layer of the preset. First with 64 connections, in pairs that follow one another, so that what the
//! machine does meanwhile is in both; then with 4,096 and 1,024, three runs back to back on the same server.

#[expect(dead_code, reason = "its other half is for loads of our own")]
mod pinned;

use std::{
    convert::Infallible,
    fs, io,
    process::{Command, ExitCode},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use conformance::Protocol;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tower::service_fn;
use tower_serve::{
    MaxConnections, Preset, Settings,
    axum::{Accepting, FromAcceptor},
    hyper::serve,
};

use crate::pinned::Server;

/// Bare, and with all layers.
const PAIRS: [(&str, &str); 2] = [("axum", "axum-preset"), ("hyper", "hyper-preset")];
const ROUNDS: usize = 9;

fn main() -> io::Result<ExitCode> {
    pinned::main(|words| {
        match words {
            ["serve", variant] => pinned::runtime(1).block_on(run(variant))?,
            ["table"] => table()?,
            _ => return Ok(false),
        }
        Ok(true)
    })
}

fn table() -> io::Result<()> {
    println!(
        "| 64 connections | requests/s, bare | with all layers | of it | least and most | us of the server's core for each, bare | with all layers | of it |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (bare, preset) in PAIRS {
        let servers = [
            Server::start(&["serve", bare])?,
            Server::start(&["serve", preset])?,
        ];
        let mut pairs = Vec::new();
        for round in 0..=ROUNDS {
            // Who is first changes, and the first round is for the caches.
            let first = round % 2;
            let mut told = [
                wrk(&servers[first], 64, 2)?,
                wrk(&servers[1 - first], 64, 2)?,
            ];
            if first == 1 {
                told.swap(0, 1);
            }
            if round > 0 {
                pairs.push(told);
            }
        }
        let rates = sorted(&pairs, |run| run.rate);
        let times = sorted(&pairs, |run| run.time);
        let [alone, layered] = rates[ROUNDS / 2];
        let [alone_time, layered_time] = times[ROUNDS / 2];
        println!(
            "| {bare} | {alone:.0} | {layered:.0} | {:.3} | {:.3} to {:.3} | {alone_time:.2} | {layered_time:.2} | {:.3} |",
            of(rates[ROUNDS / 2]),
            of(rates[0]),
            of(rates[ROUNDS - 1]),
            of(times[ROUNDS / 2]),
        );
    }
    for connections in [4_096, 1_024] {
        println!(
            "\n| {connections} connections | run 1 | run 2 | run 3 | lost from 1 to 3 | us of the server's core for each, run 1 | run 3 |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
        for (bare, preset) in PAIRS {
            for variant in [bare, preset] {
                let server = Server::start(&["serve", variant])?;
                let [one, two, three] = [(); 3].map(|()| wrk(&server, connections, 10));
                let (one, two, three) = (one?, two?, three?);
                let lost = 100.0 * (1.0 - three.rate / one.rate);
                println!(
                    "| {variant} | {:.0} | {:.0} | {:.0} | {lost:.1} % | {:.2} | {:.2} |",
                    one.rate, two.rate, three.rate, one.time, three.time
                );
            }
        }
    }
    Ok(())
}

/// One figure of each pair, by how much is left of it with all layers.
fn sorted(pairs: &[[Run; 2]], figure: impl Fn(&Run) -> f64) -> Vec<[f64; 2]> {
    let pairs = pairs
        .iter()
        .map(|[bare, layered]| [figure(bare), figure(layered)]);
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by(|one, other| of(*one).total_cmp(&of(*other)));
    pairs
}

fn of([alone, layered]: [f64; 2]) -> f64 {
    layered / alone
}

struct Run {
    /// Requests per second.
    rate: f64,
    /// Microseconds that the server ran for each: what else the machine does is not in there.
    time: f64,
}

/// An error of a client is one of the bench.
fn wrk(server: &Server, connections: usize, seconds: usize) -> io::Result<Run> {
    let before = ran(server)?;
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "--timeout",
            "10s",
        ])
        .arg(format!("http://{}/", server.address))
        .output()?;
    let ran = ran(server)? - before;
    let told = String::from_utf8_lossy(&output.stdout);
    let after = |words| {
        told.split(words)
            .nth(1)?
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    };
    let requests = told
        .split(" requests in")
        .next()
        .and_then(|told| told.split_whitespace().last());
    let requests = requests.and_then(|requests| requests.parse::<f64>().ok());
    match (after("Requests/sec:"), requests) {
        (Some(rate), Some(requests))
            if !told.contains("Non-2xx") && !told.contains("Socket errors") =>
        {
            Ok(Run {
                rate,
                time: ran * 1e6 / requests,
            })
        }
        _ => Err(io::Error::other(format!("wrk said: {told}"))),
    }
}

/// Seconds for which a server has had its core (proc(5): `utime` and `stime`, in hundredths).
fn ran(server: &Server) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.child.id()))?;
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let times: Vec<f64> = fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    Ok(times.iter().sum::<f64>() / 100.0)
}

async fn run(variant: &str) -> io::Result<()> {
    if variant == "hyper" {
        return pinned::serve(Protocol::Http1, service_fn(hello::<Incoming>)).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let app = Router::new().route("/", get(|| async { "ok" }));
    let mut settings = Settings::direct();
    settings.max_connections = MaxConnections::Fixed(10_000);
    let preset = Preset::new(&settings);
    match variant {
        "axum" => axum::serve(listener, app).await,
        "axum-preset" => {
            let acceptor = preset.acceptor(app.with_state(()));
            axum::serve(Accepting::new(listener, acceptor), FromAcceptor).await
        }
        _ => {
            let acceptor = preset.acceptor(service_fn(hello));
            let builder = hyper::server::conn::http1::Builder::new();
            serve(listener, acceptor).with_builder(builder).await
        }
    }
}

async fn hello<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("ok")))
}
