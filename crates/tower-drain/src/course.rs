//! The course of a drain, from its first moment to its report.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Version;
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};
use tower_connection::LATE;
use tracing::{info, warn};

use crate::{
    phase::Phase,
    report::{Cut, Report},
    roll::{Shared, UNHEARD},
    seat::{Seat, Verdict},
};

/// So many connections are looked at in one turn, so that the server goes on while thousands are closed.
const IN_A_TURN: usize = 64;

/// How often those who watch hear of what is left.
const PROGRESS: Duration = Duration::from_millis(250);

/// How often a line is logged.
const LOGGED: Duration = Duration::from_secs(5);

/// How long the sockets may take to be dropped that were reset: a handler that blocks its thread never ends.
const CUT: Duration = Duration::from_millis(200);

pub(crate) async fn run(shared: Arc<Shared>) {
    let begun_at = Instant::now();
    if !shared.settings().lame_duck.is_zero() {
        be_a_lame_duck(&shared, begun_at).await;
    }
    let mut report = Report::default();
    if !drain(&shared).await {
        report.cut = cut(&shared).await;
    }
    (report.ended, report.unserved) = shared.ended_and_unserved();
    report.took = begun_at.elapsed();
    // ## (Draining | Cutting) => Finished
    shared.advance(Phase::Finished, None);
    if report.is_complete() {
        info!("{report}");
    } else {
        warn!("{report}");
    }
    shared.report.send_replace(Some(Arc::new(report)));
}

/// Everybody is served as ever, and told to go elsewhere.
async fn be_a_lame_duck(shared: &Shared, begun_at: Instant) {
    let lame_duck = shared.settings().lame_duck;
    info!(?lame_duck, "a drain has begun; everybody is still served");
    announce(shared);
    // Without anybody who accepts there is nothing to wait for.
    while shared.may_accept() {
        tokio::select! {
            () = sleep_until(begun_at + lame_duck) => return,
            () = hurried(shared) => return,
            () = shared.changed() => {}
        }
    }
}

/// Who speaks HTTP/2 hears of it at once, and not with the next request. With a window for closes, in that window.
fn announce(shared: &Shared) {
    if !shared.settings().spread.is_zero() {
        return;
    }
    for seat in shared.seats() {
        if let Some(handle) = seat.handle() {
            if handle.protocol() == Some(Version::HTTP_2) {
                handle.announce();
            }
        }
    }
}

async fn hurried(shared: &Shared) {
    let mut urgent = shared.urgent.subscribe();
    // The sender is in `shared`, so it is there.
    let _ = urgent.wait_for(|urgent| *urgent).await;
}

/// What runs may finish. Returns whether it has.
async fn drain(shared: &Shared) -> bool {
    let stopped_at = Instant::now();
    let deadline = shared.settings().deadline(stopped_at);
    // ## LameDuck => Draining
    shared.advance(Phase::Draining, deadline);
    shared.give_notice(deadline);
    info!("{}", shared.look());

    let mut due: BTreeMap<(Instant, u64), Arc<Seat>> = BTreeMap::new();
    let mut looked_at = shared.seats();
    let (mut tell_at, mut log_at) = (stopped_at + PROGRESS, stopped_at + LOGGED);
    // Until then, nobody is taken for gone only because nothing was heard of him.
    let mut unheard_until = stopped_at + UNHEARD;
    loop {
        let now = Instant::now();
        looked_at.append(&mut shared.take_fresh());
        while due.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            looked_at.extend(due.pop_first().map(|(_, seat)| seat));
        }
        for (n, seat) in looked_at.drain(..).enumerate() {
            if let Verdict::LookAgain(at) = seat.judge(now, stopped_at) {
                due.insert((at, seat.number), seat);
            }
            if n % IN_A_TURN == IN_A_TURN - 1 {
                yield_now().await;
            }
        }

        let now = Instant::now();
        let over = match shared.is_empty(now, unheard_until) {
            Ok(true) => return true,
            Ok(false) => None,
            Err(at) => Some(at),
        };
        if *shared.urgent.borrow() || deadline.is_some_and(|deadline| deadline <= now) {
            return false;
        }
        if tell_at <= now {
            tell_at = now + PROGRESS;
            let progress = shared.look();
            shared.progress.send_replace(progress);
            if log_at <= now {
                log_at = now + LOGGED;
                info!("{progress}");
            }
        }
        let first = due.first_key_value().map(|((at, _), _)| *at);
        let next = [first, over, deadline].into_iter().flatten().min();
        let next = next.map_or(tell_at, |next| next.min(tell_at));
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.changed() => {}
            () = hurried(shared) => {}
        }
        // The process was stopped or starved, and so was who accepts.
        let now = Instant::now();
        if next + LATE <= now {
            unheard_until = now + UNHEARD;
        }
    }
}

/// What still runs is reset, and named.
async fn cut(shared: &Shared) -> Vec<Cut> {
    // ## Draining => Cutting
    shared.advance(Phase::Cutting, None);
    let now = Instant::now();
    let seats = shared.seats();
    let cut = seats.iter().filter_map(|seat| seat.cut(now)).collect();
    drop(seats);
    let gone = async {
        while !shared.is_deserted() {
            shared.changed().await;
        }
    };
    // Who was idle may take longer to say goodbye (HTTP/2), and loses nothing if the process ends first.
    let _ = timeout(CUT, gone).await;
    cut
}
