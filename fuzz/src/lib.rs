//! What parses bytes of a peer, as functions of any bytes. They panic if something does not hold.
//!
//! A fuzzer calls them (`fuzz_targets`), and a test of the workspace does with the bytes in `seeds`, so that they are
//! tried where there is no fuzzer.

pub mod connection;
pub mod deadline;
pub mod frames;
pub mod proxy;
pub mod settings;

mod wire;
