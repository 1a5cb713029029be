//! The `rsgunctl` command: asks the control socket of a running server.
//!
//! Only this file prints and decides the exit code: 0 when the server has answered, 1
//! when it has not, 2 for a command line that cannot be understood.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, Command, value_parser};
use rsgun::control::document::Status;
use rsgun::control::report;

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
    let Some((_, status)) = matches.subcommand() else {
        return complain("no command was given; see rsgunctl --help", 2);
    };
    let path = status.get_one::<PathBuf>("socket");
    let Some(path) = path.cloned().or_else(from_environment) else {
        let hint = format!("which socket? Give --socket PATH, or set {VARIABLE}");
        return complain(&hint, 2);
    };
    match ask(&path) {
        Ok((document, status_of_server)) => {
            let text = if status.get_flag("json") {
                document
            } else {
                report::text(&status_of_server)
            };
            // Nobody reads it any more, as in `rsgunctl status | head -1`.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error.to_string(), 1),
    }
}

fn parser() -> Command {
    let status = Command::new("status")
        .about("Shows what the server and each of its workers is doing")
        .arg(
            Arg::new("socket")
                .long("socket")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("The server's --control-socket [default: $RSGUN_CONTROL_SOCKET]"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print the document as the server has sent it"),
        );
    Command::new("rsgunctl")
        .about("Asks a running rsgun")
        .version(rsgun_core::VERSION)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(status)
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
