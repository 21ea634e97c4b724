use std::{
    convert::Infallible,
    fmt::{self, Write},
    future::{Ready, ready},
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY},
};
use tower_service::Service;

use crate::{Count, Look, Watch};

/// A page that tells what the server does: to a person as HTML, which renews itself every two seconds, and as JSON to
/// who asks for that with `Accept: application/json` or `?format=json`.
///
/// It says nothing of who the clients are, and still it is not for everybody: put it where only you come, behind a path that
/// is closed to the others or on a port of its own.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_serve::Preset;
///
/// let preset = Preset::direct();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .route_service("/status", preset.watch().status_page())
///     .route_service("/readyz", preset.drain.readiness());
/// # drop(app);
/// ```
///
/// In JSON:
///
/// ```
/// use http::Request;
/// use tower::ServiceExt;
/// # use tower_serve::Preset;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let page = Preset::direct().watch().status_page();
/// let request = Request::get("/status?format=json").body(()).expect("a request");
/// let Ok(answer) = page.oneshot(request).await;
/// assert!(answer.body().starts_with(r#"{"phase":"serving","#));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StatusPage {
    watch: Watch,
}

impl Watch {
    /// A page that shows what this sees.
    ///
    /// ```
    /// # use tower_serve::Preset;
    /// let page = Preset::direct().watch().status_page();
    /// # drop(page);
    /// ```
    #[must_use]
    pub fn status_page(&self) -> StatusPage {
        StatusPage {
            watch: self.clone(),
        }
    }
}

impl<B> Service<Request<B>> for StatusPage {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let look = self.watch.look();
        let (text, content_type) = if wants_json(&request) {
            (Json(&look).to_string(), "application/json")
        } else {
            (Html(&look).to_string(), "text/html; charset=utf-8")
        };
        let mut answer = Response::new(text);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(VARY, HeaderValue::from_static("accept"));
        headers.insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            ),
        );
        ready(Ok(answer))
    }
}

fn wants_json<B>(request: &Request<B>) -> bool {
    let accepts = request.headers().get_all(ACCEPT);
    let mut accepts = accepts.iter().filter_map(|accept| accept.to_str().ok());
    let asked = request.uri().query().unwrap_or_default().split('&');
    accepts.any(|accept| accept.contains("application/json"))
        || asked.into_iter().any(|part| part == "format=json")
}

/// Every text in it is one of ours, in lower case: nothing needs to be escaped.
struct Json<'a>(&'a Look);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(look) = self;
        write!(f, "{{\"phase\":\"{}\",\"time_left_seconds\":", look.phase)?;
        number(f, look.time_left.map(|left| left.as_secs_f64()))?;
        f.write_str(",\"now\":{")?;
        for (n, (name, value)) in look.gauges().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}\"{name}\":{value}")?;
        }
        f.write_str("},\"since_start\":[")?;
        for (n, count) in look.counts.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{{\"name\":\"{}\"", count.name)?;
            for (label, value) in &count.labels {
                write!(f, ",\"{label}\":\"{value}\"")?;
            }
            write!(f, ",\"value\":{}}}", count.value)?;
        }
        f.write_str("]}\n")
    }
}

fn number(f: &mut fmt::Formatter<'_>, value: Option<f64>) -> fmt::Result {
    match value {
        Some(value) => write!(f, "{value}"),
        None => f.write_str("null"),
    }
}

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="2"><title>Status</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1rem; margin: 1.5rem 0 .3rem }
table { width: 100%; border-collapse: collapse } td { padding: .15rem 0; border-bottom: 1px solid #8884 }
td:last-child { text-align: right; font-variant-numeric: tabular-nums } meter { width: 8rem; vertical-align: middle }
</style></head><body>
"#;

struct Html<'a>(&'a Look);

impl fmt::Display for Html<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(look) = self;
        f.write_str(HEAD)?;
        write!(f, "<h1 id=\"phase\">{}", look.phase)?;
        if let Some(left) = look.time_left {
            write!(f, ", {} s left", left.as_secs())?;
        }
        f.write_str("</h1>\n<h2>Connections</h2><table>\n")?;
        part(f, "open", look.connections, look.max_connections)?;
        row(f, "upgraded", look.upgraded)?;
        row(f, "being rejected", look.being_rejected)?;
        row(f, "acceptors that wait for a place", look.acceptors_waiting)?;
        f.write_str("</table><h2>Requests</h2><table>\n")?;
        row(f, "in flight", look.requests)?;
        if look.max_requests.is_some() {
            part(f, "slots taken", look.requests_admitted, look.max_requests)?;
        }
        row(f, "waiting", look.requests_waiting)?;
        row(
            f,
            "who comes now would wait",
            Milliseconds(look.estimated_wait),
        )?;
        row(f, "streams", look.streams)?;
        let moves = look.course.iter().rev().take(MOVES);
        if moves.len() > 0 {
            f.write_str("</table><h2>How the limit of requests moved</h2><table>\n")?;
        }
        for step in moves {
            let ago = Milliseconds(step.at.elapsed());
            let what = match step.reason {
                "" => "moved".into(), // by a law of one's own, which need not say why
                reason => reason.replace('&', "&amp;").replace('<', "&lt;"),
            };
            writeln!(
                f,
                "<tr><td>{ago} ago: {what}</td><td>{} to {}</td></tr>",
                step.from, step.to
            )?;
        }
        f.write_str("</table><h2>Since the start</h2><table>\n")?;
        let happened = look.counts.iter().filter(|count| count.value > 0);
        for count in happened.clone() {
            row(f, &name(count), count.value)?;
        }
        if happened.count() == 0 {
            row(f, "nobody was refused, and nobody's connection ended", "")?;
        }
        f.write_str("</table></body></html>\n")
    }
}

/// How many moves of the limit are shown.
const MOVES: usize = 8;

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "<tr><td>{name}</td><td>{value}</td></tr>")
}

fn part(f: &mut fmt::Formatter<'_>, name: &str, n: usize, max: Option<usize>) -> fmt::Result {
    match max {
        Some(max) => writeln!(
            f,
            "<tr><td>{name} <meter max=\"{max}\" high=\"{}\" value=\"{n}\"></meter></td><td>{n} of {max}</td></tr>",
            max - max / 10
        ),
        None => row(f, name, n),
    }
}

/// As people say it: `connections ended: keep alive, idle`.
fn name(count: &Count) -> String {
    let name = count
        .name
        .trim_start_matches("server_")
        .trim_end_matches("_total");
    let mut text = name.replace('_', " ");
    for (n, (_, value)) in count.labels.iter().enumerate() {
        let between = if n == 0 { ": " } else { ", " };
        let _ = write!(text, "{between}{}", value.replace('_', " "));
    }
    text
}

struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0.as_millis())
    }
}
