//! What the three kinds of rsgun process share.
//!
//! This crate loads neither Python nor an async runtime, so that the master can
//! use it without either. It holds the vocabulary ([`ipc`], [`scoreboard`], [`roster`]), the
//! settings ([`config`]), the sockets ([`listeners`]), the log line format
//! ([`log`]), and, in [`sys`], every piece of `unsafe` outside the Python bridge.

pub mod bootstrap;
pub mod config;
pub mod drain;
pub mod foreign;
pub mod hooks;
pub mod ipc;
pub mod jitter;
pub mod listeners;
pub mod log;
pub mod roster;
pub mod scoreboard;
pub mod sys;

/// The version of this package. Master and extension must agree on it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
