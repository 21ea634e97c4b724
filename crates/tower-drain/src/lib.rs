//! End a server well: finish what is running, refuse the rest, stop on time, and say so.

mod accept;
mod course;
mod drain;
mod io;
mod layer;
mod phase;
mod readiness;
mod report;
mod roll;
mod seat;
mod service;
mod settings;
mod watch;

pub use crate::{
    accept::{DrainAcceptor, DrainFuture},
    drain::Drain,
    io::{DrainIo, Enrolled},
    layer::DrainLayer,
    phase::{Phase, Progress},
    readiness::Readiness,
    report::{Cut, CutRequest, Report},
    seat::InFlight,
    service::{DrainResponseFuture, DrainService},
    watch::DrainWatch,
};
