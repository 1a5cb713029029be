//! The `rsgun` command. Only this file prints and decides the exit code.

use std::io::Write;
use std::process::ExitCode;

use rsgun::cli::{self, CliError, Command};
use rsgun::master::{self, Invocation, Purpose};
use rsgun_core::config::ProcessEnvironment;
use rsgun_core::log::output;
use rsgun_core::sys::title;

fn main() -> ExitCode {
    // Before anything can hold a reference into the environment.
    let purpose = match Purpose::of_process() {
        Ok(purpose) => purpose,
        Err(error) => return complain(&format!("cannot take over: {error}"), 1),
    };
    let environment = ProcessEnvironment::with_sockets(purpose.sockets());
    title::make_room();
    let invocation = match Invocation::of_process() {
        Ok(invocation) => invocation,
        Err(error) => return complain(&format!("there is no current directory: {error}"), 1),
    };
    let directory = invocation.directory().to_owned();
    match cli::parse(std::env::args_os(), environment, directory) {
        Ok(Command::Print(text)) => {
            // Nobody reads it any more, as in `rsgun --help | head -1`.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Command::Serve(source)) => match master::run(source, invocation, purpose) {
            Ok(code) => ExitCode::from(code),
            Err(error) => complain(&error.to_string(), error.exit_code()),
        },
        Err(error) => {
            let _ = std::io::stderr().write_all(error.to_string().as_bytes());
            ExitCode::from(CliError::EXIT_CODE)
        }
    }
}

fn complain(message: &str, code: u8) -> ExitCode {
    output::last_words(message);
    ExitCode::from(code)
}
