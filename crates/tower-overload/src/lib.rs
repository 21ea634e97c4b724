//! Shed load through `poll_ready`: every request gets a slot, a bounded wait, or an answer at once.

mod admission;
mod body;
mod budget;
mod calendar;
mod class;
mod core;
mod layer;
mod limit;
mod load_shed;
mod overload;
mod permit;
mod pressure;
mod respond;
mod room;
mod service;
mod serving;
mod shares;
mod shed;
mod shedding;
mod slots;

pub use crate::{
    admission::{AdaptiveLifo, Admission},
    body::OverloadBody,
    class::{Classify, Criticality, Ticket},
    layer::InFlightLimitLayer,
    limit::{Limit, Outcome, Sample},
    load_shed::{LoadShed, LoadShedFuture, LoadShedLayer},
    overload::Overload,
    pressure::Pressure,
    respond::{Overloaded, Respond},
    room::{Waiter, WaiterId, WaitingRoom},
    service::{InFlightLimit, InFlightLimitFuture},
    shed::{Reason, Shed},
};
