//! What is known of one connection, from accept to close.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use http::{Request, Version};
use tokio::time::Instant;
use tower_connection::{ConnectionHandle, Socket};

use crate::{
    phase::Phase,
    report::{Cut, CutRequest},
    roll::Shared,
};

/// Shared by the socket half and the service half of a connection, and the roll of all.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: u64,
    accepted_at: Instant,
    /// Once the connection is made: after its TLS handshake.
    handle: OnceLock<ConnectionHandle>,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    requests: Vec<Running>,
    numbers: u64,
    /// What nobody but the socket half can do, while there is no handle yet.
    end: Option<End>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

#[derive(Debug)]
struct Running {
    number: u64,
    line: Line,
    begun_at: Instant,
}

/// Method and path, as far as they fit. (A clone of either could keep the whole head of the request, which the client
/// chooses the size of.)
#[derive(Debug)]
struct Line {
    length: u8,
    bytes: [u8; LINE],
}

const LINE: usize = 120;

impl Line {
    fn of<B>(request: &Request<B>) -> Self {
        let mut line = Self {
            length: 0,
            bytes: [0; LINE],
        };
        // Not the query, in which people put secrets.
        for part in [request.method().as_str(), " ", request.uri().path()] {
            line.push(part.as_bytes());
        }
        line
    }

    fn push(&mut self, part: &[u8]) {
        let at = usize::from(self.length);
        let fits = part.len().min(LINE - at);
        self.bytes[at..at + fits].copy_from_slice(&part[..fits]);
        self.length += u8::try_from(fits).expect("it is less than LINE");
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = &self.bytes[..usize::from(self.length)];
        // Escaped: `http` lets through whatever is UTF-8, and lines of a log are made of it.
        for c in String::from_utf8_lossy(line).chars() {
            match c {
                '\'' | '"' => write!(f, "{c}")?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// What is to be done about a connection of a server that drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing more: it will end by itself, or somebody will say when to look again.
    Leave,
    LookAgain(Instant),
}

impl Seat {
    pub(crate) fn new(shared: Arc<Shared>, number: u64) -> Self {
        Self {
            shared,
            number,
            accepted_at: Instant::now(),
            handle: OnceLock::new(),
            work: Mutex::default(),
        }
    }

    pub(crate) fn handle(&self) -> Option<&ConnectionHandle> {
        self.handle.get()
    }

    /// The connection is made.
    pub(crate) fn set_handle(self: &Arc<Self>, handle: &ConnectionHandle) {
        let work = self.work();
        let end = work.end;
        handle.set_notice(self.shared.notice());
        let _ = self.handle.set(handle.clone());
        drop(work);
        match end {
            Some(End::Close) => handle.close(),
            Some(End::Reset) => handle.abort(),
            None if self.shared.phase() == Phase::Draining => self.shared.look_at(self.clone()),
            None => {}
        }
    }

    /// What the socket half must do to a connection in the making; wakes it at the next change.
    pub(crate) fn heed(&self, io: &impl Socket, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut work = self.work();
        match work.end {
            Some(End::Close) => Ok(true),
            Some(End::Reset) => {
                // A socket without a reset is closed by the error just the same.
                let _ = io.reset_on_close();
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            None => {
                work.waker = Some(cx.waker().clone());
                Ok(false)
            }
        }
    }

    fn tell(&self, end: End) {
        let mut work = self.work();
        work.end = Some(end);
        let handle = self.handle.get();
        let waker = work.waker.take();
        drop(work);
        match (handle, end) {
            (Some(handle), End::Close) => handle.close(),
            (Some(handle), End::Reset) => handle.abort(),
            (None, _) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    /// Resets it if something runs on it, and returns what that was; closes it if not. (A response may still be on its
    /// way in the kernel, and a handshake or half a head is no work.)
    pub(crate) fn cut(&self, now: Instant) -> Option<Cut> {
        let handle = self.handle().filter(|handle| self.is_at_work(handle));
        let cut = handle.map(|handle| self.describe(handle, now));
        let end = if cut.is_some() {
            End::Reset
        } else {
            End::Close
        };
        self.tell(end);
        cut
    }

    /// Resets it, whatever it does.
    pub(crate) fn reset(&self) {
        self.tell(End::Reset);
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.work().end == Some(End::Reset)
    }

    fn is_at_work(&self, handle: &ConnectionHandle) -> bool {
        handle.idle_since().is_none() || !self.work().requests.is_empty()
    }

    fn describe(&self, handle: &ConnectionHandle, now: Instant) -> Cut {
        let work = self.work();
        let requests = work.requests.iter().map(|request| CutRequest {
            line: request.line.to_string(),
            age: now - request.begun_at,
        });
        Cut {
            peer: handle.peer().clone(),
            protocol: handle.protocol(),
            upgraded: handle.is_upgraded(),
            age: now - self.accepted_at,
            requests: requests.collect(),
        }
    }

    pub(crate) fn requests(&self) -> usize {
        if self.is_upgraded() {
            return 0;
        }
        self.work().requests.len()
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.handle().is_some_and(ConnectionHandle::is_upgraded)
    }

    /// Looks at it, in a server that has drained since `stopped_at`: closes it if it is time.
    pub(crate) fn judge(&self, now: Instant, stopped_at: Instant) -> Verdict {
        let settings = self.shared.settings();
        let until_whole = |begun: Instant| begun.max(stopped_at) + settings.arriving;
        let Some(handle) = self.handle() else {
            return self.close_at(until_whole(self.accepted_at), now);
        };
        if handle.is_closing() || handle.is_upgraded() {
            return Verdict::Leave;
        }
        let opening = handle.requests() == 0 && handle.head_since().is_some();
        if handle.protocol() == Some(Version::HTTP_2) && !opening {
            // Who has just come would find itself told before it has asked.
            let asked = handle.requests() > 0;
            let came = handle.accepted_at() + settings.last_chance;
            let at = if asked {
                stopped_at
            } else {
                stopped_at.max(came)
            };
            return self.close_at(at + settings.offset(self.number), now);
        }
        if !self.work().requests.is_empty() {
            return Verdict::Leave; // the end of the response will say so
        }
        if let Some(begun) = handle.head_since() {
            return self.close_at(until_whole(begun), now);
        }
        match handle.idle_since() {
            Some(idle) => {
                let at = stopped_at + settings.idle_until(self.number);
                self.close_at(at.max(idle + settings.last_chance), now)
            }
            // It waits for its service, or its response for the client.
            None => Verdict::LookAgain(now + settings.last_chance.max(LOOK)),
        }
    }

    fn close_at(&self, at: Instant, now: Instant) -> Verdict {
        if now < at {
            return Verdict::LookAgain(at);
        }
        self.tell(End::Close);
        Verdict::Leave
    }

    /// A request begins, until the guard is dropped.
    pub(crate) fn begin<B>(self: &Arc<Self>, request: &Request<B>) -> InFlight {
        let (line, begun_at) = (Line::of(request), Instant::now());
        let mut work = self.work();
        work.numbers += 1;
        let number = work.numbers;
        work.requests.push(Running {
            number,
            line,
            begun_at,
        });
        drop(work);
        InFlight {
            seat: self.clone(),
            number,
            kept: false,
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while it is held.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How soon to look again at what is about to end.
const LOOK: Duration = Duration::from_millis(100);

/// A request in flight.
#[derive(Debug)]
pub struct InFlight {
    seat: Arc<Seat>,
    number: u64,
    kept: bool,
}

impl InFlight {
    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// It became what its connection is now: it is remembered for as long.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut work = self.seat.work();
        let mut requests = work.requests.iter();
        if let Some(at) = requests.rposition(|running| running.number == self.number) {
            work.requests.swap_remove(at);
        }
        drop(work);
        // Whoever has seen it in flight has set the phase before, and held the lock since.
        if self.seat.shared.phase() == Phase::Draining {
            let closing = self.seat.handle().is_none_or(ConnectionHandle::is_closing);
            if !closing {
                self.seat.shared.look_at(self.seat.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A terminal reads U+009B as the beginning of an instruction, and U+202E turns around what follows.
    #[test]
    fn what_a_client_asked_for_is_escaped() {
        let asked = Request::get("/caf\u{e9}'s\u{9b}2J\u{202e}").body(());
        let line = Line::of(&asked.expect("http lets it through"));
        assert_eq!(line.to_string(), "GET /caf\u{e9}'s\\u{9b}2J\\u{202e}");
    }

    #[test]
    fn a_path_that_is_too_long_is_told_as_far_as_it_fits() {
        let asked = Request::get(format!("/{}", "\u{e9}".repeat(100))).body(());
        let line = Line::of(&asked.expect("a request")).to_string();
        assert!(
            line.starts_with("GET /\u{e9}\u{e9}") && line.len() <= LINE + 3,
            "{line}"
        );
    }
}
