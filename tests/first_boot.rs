//! Whole-process tests of the master against a fork server that misbehaves: whatever
//! it does at the first boot, the master ends in time, with the right exit code, a
//! message that names the thing, and nothing left behind.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

/// How the master ended, and what it wrote.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stderr: String,
}

/// Kills the whole process group of a master that a failed test leaves behind.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // Nobody is left in the group when everything went well.
            let group = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

fn boot(fake: &str, options: &[&str]) -> Ended {
    let fork_server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/fork_server.py");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rsgun"));
    command
        .args(["--bind", "127.0.0.1:0", "--workers", "2"])
        .arg("--python")
        .arg(fork_server)
        .args(options)
        .arg("main:app")
        .env("FAKE", fake)
        .env("FAKE_VERSION", rsgun_core::VERSION)
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = Guard(command.spawn().unwrap());
    let mut pipe = child.0.stderr.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    // The pipe ends when the last process that has inherited it is gone: this waits
    // for the fork server as well.
    std::thread::spawn(move || {
        let mut stderr = String::new();
        let result = pipe.read_to_string(&mut stderr);
        let _ = sender.send(result.map(|_| stderr));
    });
    let stderr = receiver.recv_timeout(DEADLINE).unwrap().unwrap();
    let code = child.0.wait().unwrap().code();
    Ended { code, stderr }
}

#[track_caller]
fn assert_ends(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    for words in words {
        assert!(
            ended.stderr.contains(words),
            "no `{words}` in:\n{}",
            ended.stderr
        );
    }
    assert_eq!(
        ended.stderr.matches("ERROR:").count(),
        1,
        "{}",
        ended.stderr
    );
}

#[test]
fn one_that_never_says_a_word_is_given_up() {
    let ended = boot("silent", &["--boot-timeout", "1"]);
    assert_ends(
        &ended,
        3,
        &["The fork server was not ready within 1 s", "--boot-timeout"],
    );
}

#[test]
fn one_that_talks_nonsense_is_given_up() {
    let ended = boot("garbage", &["--boot-timeout", "1"]);
    assert_ends(&ended, 3, &["was not ready within 1 s"]);
}

#[test]
fn one_of_another_version_is_refused() {
    let ended = boot("old", &[]);
    assert_ends(&ended, 1, &["0.0.1", rsgun_core::VERSION]);
}

#[test]
fn one_that_closes_its_channel_is_given_up() {
    let ended = boot("closes", &[]);
    assert_ends(&ended, 3, &["closed its channel"]);
}

#[test]
fn one_that_dies_is_told_with_the_signal() {
    let ended = boot("dies", &[]);
    assert_ends(&ended, 3, &["The fork server was killed by SIGKILL"]);
}

#[test]
fn one_that_cannot_fork_says_why() {
    let ended = boot("no-processes", &[]);
    assert_ends(&ended, 3, &["Resource temporarily unavailable"]);
}

#[test]
fn one_that_swallows_requests_is_given_up() {
    // Time enough for the fork server, which is a program in Python, to come that far.
    let ended = boot("swallows", &["--boot-timeout", "5"]);
    assert_ends(&ended, 3, &["Worker 1 was not ready within 5 s"]);
}
