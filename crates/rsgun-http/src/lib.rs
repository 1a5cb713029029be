//! What is asked of HTTP requests: a pure part, so that every rule can be tested by itself.
//!
//! hyper parses a request leniently in places, and applications trust what they get.
//! [`policy`] refuses what other programs on the way may have read differently.

pub mod persistence;
pub mod policy;
