//! Overload in virtual time: laws that find a limit, against the same servers and clients.

pub mod chance;
pub mod laws;
