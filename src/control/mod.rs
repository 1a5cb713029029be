//! The control socket: tells the state of the server, also when no worker answers.
//!
//! Whoever connects to it gets one JSON document, a [`document::Status`], and the end of
//! the connection; nothing is read from the client. It belongs to the user that runs the
//! master, and nobody else may connect (mode 0600). `rsgunctl` is the client for people.

pub mod document;
pub mod report;
pub(crate) mod socket;
