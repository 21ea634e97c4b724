//! Overload in virtual time: laws that find a limit, against the same servers and clients.

#[path = "../../../crates/tower-overload/src/calendar.rs"]
mod calendar;
pub mod chance;
pub mod contender;
pub mod fleet;
pub mod laws;
pub mod plot;
pub mod room;
pub mod run;
pub mod single;
pub mod table;
pub mod work;
pub mod world;
