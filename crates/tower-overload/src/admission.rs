use std::fmt;

use crate::{Criticality, Ticket, Waiter, WaiterId, WaitingRoom};

/// Who of those that wait goes next, and who leaves when the room is full.
///
/// It is asked under the lock of the room, and must be quick. [`AdaptiveLifo`] is the default.
///
/// # Examples
///
/// First come, first served, whatever the class:
///
/// ```
/// use tower_overload::{Admission, Criticality, InFlightLimitLayer, WaiterId, WaitingRoom};
///
/// #[derive(Debug)]
/// struct Fifo;
///
/// impl Admission for Fifo {
///     fn next(&mut self, room: &WaitingRoom) -> Option<WaiterId> {
///         let first = Criticality::ALL.into_iter().filter_map(|class| room.of(class).next());
///         first.min_by_key(|waiter| waiter.since).map(|waiter| waiter.id)
///     }
/// }
///
/// let layer = InFlightLimitLayer::new(100).admission(Fifo);
/// # drop(layer);
/// ```
pub trait Admission: fmt::Debug + Send + 'static {
    /// Who gets the slot that is free. `None` leaves it free until the next request ends or comes.
    fn next(&mut self, room: &WaitingRoom) -> Option<WaiterId>;

    /// How many of those that wait go before `newcomer`, if it is let in: for who has a deadline. All of them, unless this is
    /// implemented.
    fn ahead(&self, newcomer: &Ticket, room: &WaitingRoom) -> usize {
        let _ = newcomer;
        room.len()
    }

    /// Who is refused so that `newcomer` can wait in a room that is full. `None` refuses the newcomer, which is what is
    /// done unless this is implemented.
    fn displace(&mut self, newcomer: &Ticket, room: &WaitingRoom) -> Option<WaiterId> {
        let _ = (newcomer, room);
        None
    }
}

/// First come, first served, until a queue [stands](WaitingRoom::is_standing); then who came last goes first.
///
/// Who came first to a standing queue has waited so long that its client is about to give up, or has: to serve in order
/// is then to be late for everybody. Who came last can still be in time, and the others would not have been. Who is more
/// critical goes first all the same; a class below its [share](crate::InFlightLimitLayer::share) goes before one above
/// its own; and of the next 64 in line, the one whose [key](Ticket::key) has the fewest requests in the house.
///
/// In a full room a newcomer takes the place of somebody less critical, of somebody whose key has more requests there, or,
/// while the queue stands, of who came first.
///
/// Source: adaptive LIFO of "Fail at Scale" (Maurer, ACM Queue 2015), with `CoDel`'s test.
#[derive(Clone, Debug, Default)]
pub struct AdaptiveLifo;

/// How far it looks for a key with fewer requests.
const LOOK: usize = 64;

impl Admission for AdaptiveLifo {
    fn next(&mut self, room: &WaitingRoom) -> Option<WaiterId> {
        let somebody = |class: &Criticality| room.waiting(*class) > 0;
        let mut classes = Criticality::ALL.into_iter().filter(somebody);
        let below = classes.clone().find(|&class| room.owed(class) > 0);
        let class = below.or_else(|| classes.next())?;
        let line = room.of(class);
        if room.is_standing(class) {
            fewest(line.rev(), room)
        } else {
            fewest(line, room)
        }
    }

    fn ahead(&self, newcomer: &Ticket, room: &WaitingRoom) -> usize {
        let class = newcomer.class;
        let higher = class.higher().map(|class| room.waiting(class));
        let lower = class
            .lower()
            .map(|class| room.waiting(class).min(room.owed(class)));
        let own = if room.is_standing(class) {
            0
        } else {
            room.waiting(class)
        };
        higher.chain(lower).sum::<usize>() + own
    }

    fn displace(&mut self, newcomer: &Ticket, room: &WaitingRoom) -> Option<WaiterId> {
        let class = newcomer.class;
        let owed = room.waiting(class) < room.owed(class);
        // Who waits for what its class is owed is not displaced by another class.
        let other = |other: &Criticality| {
            (*other < class || owed && *other != class) && room.waiting(*other) > room.owed(*other)
        };
        if let Some(other) = Criticality::ALL.into_iter().rev().find(other) {
            let mut line = room.of(other);
            let waiter = if room.is_standing(other) {
                line.next()
            } else {
                line.next_back()
            };
            return waiter.map(|waiter| waiter.id);
        }
        if newcomer.key.is_some() {
            let fair = room.requests_of_key(newcomer) + 1;
            let last = room.of(class).rev().take(LOOK);
            let most = last.max_by_key(|waiter| room.requests_of_key(waiter.ticket))?;
            if room.requests_of_key(most.ticket) > fair {
                return Some(most.id);
            }
        }
        let first = room.is_standing(class).then(|| room.of(class).next())?;
        first.map(|waiter| waiter.id)
    }
}

/// The first whose key has the fewest requests.
fn fewest<'a>(line: impl Iterator<Item = Waiter<'a>>, room: &WaitingRoom) -> Option<WaiterId> {
    let mut line = line.take(LOOK);
    let first = line.next()?;
    if first.ticket.key.is_none() {
        return Some(first.id);
    }
    let requests = |waiter: &Waiter<'_>| room.requests_of_key(waiter.ticket);
    let mut best = (requests(&first), first.id);
    for waiter in line.filter(|waiter| waiter.ticket.key.is_some()) {
        let requests = requests(&waiter);
        if requests < best.0 {
            best = (requests, waiter.id);
        }
    }
    Some(best.1)
}
