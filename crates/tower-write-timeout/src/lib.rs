//! A client must keep taking its response, and giving up frees everything.

mod accept;
mod io;
mod layer;
mod pace;
mod streams;
mod watch;

pub use crate::{
    accept::{WriteTimeout, WriteTimeoutFuture},
    io::{Owing, WriteTimeoutSocket},
    layer::WriteTimeoutLayer,
    streams::{Starving, WriteTimeoutIo},
};
