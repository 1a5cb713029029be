//! HTTP: a connection is a stack of small layers, socket at the bottom.

pub(crate) mod access_log;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod disk;
pub(crate) mod file_part;
pub(crate) mod handover;
pub(crate) mod io;
pub(crate) mod rest;
mod service;
pub(crate) mod shared;
pub(crate) mod spool;
pub(crate) mod tap;
mod tunnel;
pub(crate) mod websocket;
