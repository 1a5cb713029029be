//! The sockets that the master listens on.
//!
//! # Theory of operation
//!
//! An [`Address`] says where to listen; it is what a user writes. A [`Listener`] is
//! an open socket: the address that asked for it, the one it really has, and whether
//! rsgun created it or inherited it. [`open_all`] turns addresses into listeners at
//! boot, all or nothing. [`prepare`] does the same for a reload: it opens only what
//! is not open yet, and the caller decides later whether the change is applied or
//! abandoned, so that a reload that fails leaves every socket as it was.
//!
//! Every listener is close-on-exec and non-blocking; workers get copies of the
//! descriptors. Dropping a listener therefore only closes the master's copy. What
//! the file system shows (a UNIX socket's name) is removed by [`Listener::cleanup`],
//! once, when the server stops for good.

mod address;
mod bind;
mod change;
mod error;
mod inherited;
mod listener;
mod manner;
mod names;
mod record;
mod unix;

pub use address::{Address, AddressError, DEFAULT_PORT};
pub use change::{Change, open_all, prepare, prepare_with};
pub use error::ListenError;
pub use inherited::copy_of;
pub use listener::{Listener, Origin};
pub use manner::Manner;
pub use names::Names;
pub use record::Record;
pub use unix::final_path;

use listener::local_address;
