//! Which signal asks the master for what.

use nix::sys::signal::Signal;

use crate::master::Command;

/// The signals that the master handles. SIGPIPE is not among them: Rust programs
/// ignore it from the start, and children get the default back. SIGXFSZ asks for
/// nothing, but would end the master when a log file reaches a limit (`ulimit -f`).
pub const HANDLED: [Signal; 11] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
    Signal::SIGXFSZ,
];

/// What a signal asks for; `None` for one that asks for nothing, as the end of a child. In
/// the foreground HUP and WINCH may come from the terminal, with another meaning.
#[must_use]
pub fn command(signal: Signal) -> Option<Command> {
    match signal {
        Signal::SIGTERM => Some(Command::Stop),
        Signal::SIGINT | Signal::SIGQUIT => Some(Command::StopQuickly),
        Signal::SIGHUP => Some(Command::Reload),
        Signal::SIGTTIN => Some(Command::More),
        Signal::SIGTTOU => Some(Command::Fewer),
        Signal::SIGUSR1 => Some(Command::ReopenLogs),
        Signal::SIGUSR2 => Some(Command::Upgrade),
        Signal::SIGWINCH => Some(Command::Dismiss),
        _ => None,
    }
}
