//! The `rsgunctl` command: asks the control socket of a running server.
//!
//! Only this file prints and decides the exit code: 0 when the server has answered, 1
//! when it has not, 2 for a command line that cannot be understood. `rsgunctl ready` is
//! for health checks, and its code is 1 as well when the server has answered that it is
//! not ready: Docker reserves 2, and for Kubernetes anything but 0 is a failure.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, Command, value_parser};
use rsgun::control::document::Status;
use rsgun::control::report;

/// The command for health checks.
const READY: &str = "ready";
/// The variable of the server's setting, so that one environment serves both.
const VARIABLE: &str = "RSGUN_CONTROL_SOCKET";
/// How long the server may take to answer. Its master waits for nobody, so this is long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("cannot connect to {}: {source}; {}", path.display(), advice(source))]
    Connect { path: PathBuf, source: io::Error },
    #[error("{} does not answer: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} answers with something else than a status: {source}", path.display())]
    Format {
        path: PathBuf,
        source: serde_json::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => {
            "is this the path that the server was given with --control-socket, and does it run?"
        }
        ErrorKind::ConnectionRefused => "the server that made this socket has ended",
        ErrorKind::PermissionDenied => "only the user that runs the master may ask it",
        _ => "check the path",
    }
}

fn main() -> ExitCode {
    let matches = match parser().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help goes to standard output and is no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let Some((command, asked)) = matches.subcommand() else {
        return complain("no command was given; see rsgunctl --help", 2);
    };
    let path = asked.get_one::<PathBuf>("socket");
    let Some(path) = path.cloned().or_else(from_environment) else {
        let hint = format!("which socket? Give --socket PATH, or set {VARIABLE}");
        return complain(&hint, 2);
    };
    let (document, status) = match ask(&path) {
        Ok(answer) => answer,
        Err(error) => return complain(&error.to_string(), 1),
    };
    if command == READY {
        print(&report::ready(&status));
        return ExitCode::from(u8::from(!status.is_ready()));
    }
    if asked.get_flag("json") {
        print(&document);
    } else {
        print(&report::text(&status));
    }
    ExitCode::SUCCESS
}

/// Prints to those who still read: nobody may, as in `rsgunctl status | head -1`.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn parser() -> Command {
    let socket = Arg::new("socket")
        .long("socket")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help("The server's --control-socket [default: $RSGUN_CONTROL_SOCKET]");
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print the document as the server has sent it");
    let status = Command::new("status")
        .about("Shows what the server and each of its workers is doing")
        .args([socket.clone(), json]);
    let ready = Command::new(READY)
        .about("Tells whether the server is ready; the exit code is 1 if not, for health checks")
        .arg(socket);
    Command::new("rsgunctl")
        .about("Asks a running rsgun")
        .version(rsgun_core::VERSION)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([status, ready])
}

fn from_environment() -> Option<PathBuf> {
    std::env::var_os(VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Asks the server; returns its answer as it is, and as it was understood.
fn ask(path: &Path) -> Result<(String, Status), AskError> {
    let failed = |source| AskError::Read {
        path: path.to_owned(),
        source,
    };
    let mut server = UnixStream::connect(path).map_err(|source| AskError::Connect {
        path: path.to_owned(),
        source,
    })?;
    server.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut document = String::new();
    server.read_to_string(&mut document).map_err(failed)?;
    let status = serde_json::from_str(&document).map_err(|source| AskError::Format {
        path: path.to_owned(),
        source,
    })?;
    Ok((document, status))
}

fn complain(message: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "rsgunctl: {message}");
    ExitCode::from(code)
}
