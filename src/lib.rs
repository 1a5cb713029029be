//! rsgun, the master process: it owns the listeners, the signals and the
//! supervision of the workers, and never loads Python.
//!
//! `docs/architecture.md` shows how it works together with the fork server and the
//! workers, which live in `crates/rsgun-worker`.

pub mod cli;
pub mod control;
pub mod master;
pub mod python;
pub mod signals;
