//! ASGI: how a request reaches the application, and its answer the client.

pub(crate) mod awaitable;
pub(crate) mod cycle;
pub(crate) mod deferred;
pub(crate) mod exchange;
pub(crate) mod message;
pub(crate) mod scope;
pub(crate) mod session;
pub(crate) mod socket;
pub(crate) mod socket_message;
