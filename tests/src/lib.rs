//! Every promise, instantiated for every stack.
//!
//! A scenario is a function of a [`Stack`]. It starts a [`Server`] on it, connects [`Wire`]s, and asserts
//! on what a client sees: an answer, an end, a GOAWAY. It never names a framework, and the answer of
//! every stack must be the same. `tests/conformance.rs` runs each scenario on each stack.
//!
//! The sockets are pipes in memory and the clock is paused, so a deadline costs no waiting and a test
//! cannot be flaky; what needs a kernel (resets, descriptors) is in `clients/run.py`. A [`Load`] is another
//! matter: it comes over real sockets, in real time, for benchmarks.

#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test harness: a panic is a failed test, and every result is looked at"
)]

mod dice;
mod open_loop;
mod server;
mod stack;
mod wire;

pub use crate::{
    dice::dice,
    open_loop::{Answers, Load, Outcome},
    server::{Layers, Server},
    stack::{Protocol, Stack},
    wire::{Answer, Ending, Wire},
};

/// The documents, as doctests: what a reader copies from them compiles.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../docs/stacks.md")]
    struct Stacks;

    #[doc = include_str!("../../docs/drain.md")]
    struct Drain;

    #[doc = include_str!("../../docs/ordering.md")]
    struct Ordering;

    #[doc = include_str!("../../docs/migrating.md")]
    struct Migrating;

    #[doc = include_str!("../../docs/operations.md")]
    struct Operations;

    #[doc = include_str!("../../crates/tower-serve/README.md")]
    struct Serve;
}
