//! The system layer: every `unsafe` block outside the Python bridge lives here.
//!
//! Each submodule wraps one facility behind a safe function or type:
//!
//! * `bundle`: many descriptors that travel as one;
//! * [`channel`]: `SOCK_SEQPACKET` pairs that carry bytes and descriptors;
//! * [`credentials`]: becoming another user;
//! * `datagram`: datagrams with what travels beside them;
//! * [`fork`]: forks, and what becomes a child of somebody else by them;
//! * [`handover`]: one program taking the place of another;
//! * [`handshakes`]: a TCP listener that new clients no longer reach;
//! * [`inherited`]: descriptors that the parent has passed on by number;
//! * [`no_wait`]: writes to a shared pipe that do not wait;
//! * [`parent_death`]: the end of a process that its parent has left behind;
//! * [`relay`]: signals that are passed on to a master;
//! * [`shared`]: sealed memory files and their mappings;
//! * [`signals`]: signals as a queue;
//! * [`process`]: signal dispositions, parent-death, inherited descriptors;
//! * [`stacks`]: the Python stacks of a process that hangs;
//! * [`title`]: what `ps` shows.
#![expect(
    unsafe_code,
    reason = "the one module that talks to the kernel without a safe wrapper"
)]

mod bundle;
pub mod channel;
pub mod credentials;
mod datagram;
pub mod fork;
pub mod handover;
pub mod handshakes;
pub mod inherited;
pub mod no_wait;
pub mod parent_death;
pub mod process;
pub mod relay;
pub mod shared;
pub mod signals;
pub mod stacks;
pub mod title;
