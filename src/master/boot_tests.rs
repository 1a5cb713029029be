//! The boot, and what may go wrong before anybody serves.

use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::ipc::{FailureKind, FromForkServer, FromWorker, WorkerId};

use super::event::{Command, Event};
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{KILLED, World, count, import_error};

/// Workers that were lost before they had told their pid are waited for a moment.
fn cooperate_a_while(world: &mut World) {
    world.cooperate();
    if world.exit.is_none() {
        world.pass(Duration::from_millis(250));
    }
}

#[test]
fn all_workers_are_asked_for_at_once_and_announced_when_ready() {
    let mut world = World::new(4, false);
    world.server_hello(1);
    assert!(world.workers.is_empty());
    world.server_loaded(1);
    assert_eq!(world.workers.len(), 4);
    let ids = world.starting();
    for id in &ids {
        world.worker_hello(*id);
    }
    for id in &ids[..3] {
        world.worker_ready(*id);
    }
    assert_eq!(count(&world, |n| *n == Notice::Serving), 0);
    world.worker_ready(ids[3]);
    assert_eq!(count(&world, |n| *n == Notice::Serving), 1);
}

#[test]
fn a_slow_worker_does_not_hold_up_the_announcement_for_ever() {
    let mut world = World::new(2, false);
    world.server_hello(1);
    world.server_loaded(1);
    let id = world.starting()[0];
    world.worker_hello(id);
    world.worker_ready(id);
    world.pass(Duration::from_millis(1999));
    assert_eq!(count(&world, |n| *n == Notice::Serving), 0);
    world.pass(Duration::from_millis(1));
    assert_eq!(count(&world, |n| *n == Notice::Serving), 1);
}

#[test]
fn the_first_failure_of_the_first_boot_ends_everything_and_is_told_once() {
    let mut world = World::new(4, false);
    world.server_hello(1);
    world.server_loaded(1);
    for id in world.starting() {
        world.worker_hello(id);
    }
    for id in world.starting() {
        if world.exit.is_none() {
            world.happen(Event::Worker {
                id,
                message: FromWorker::Failed(import_error()),
            });
        }
    }
    let ids: Vec<WorkerId> = world.workers.keys().copied().collect();
    for id in ids {
        world.worker_dies(id, Exit::Code(3));
    }
    world.cooperate();
    assert_eq!(world.exit, Some(3));
    assert_eq!(count(&world, |n| matches!(n, Notice::BootFailed { .. })), 1);
    assert!(world.workers.is_empty() && world.servers.is_empty());
}

#[test]
fn a_missing_attribute_is_exit_code_4_also_with_preload() {
    let mut world = World::new(2, true);
    world.server_hello(1);
    let mut failure = import_error();
    failure.kind = FailureKind::AttributeMissing;
    world.happen(Event::ForkServer {
        generation: 1,
        message: FromForkServer::Failed(failure),
    });
    world.server_dies(1, Exit::Code(1));
    assert_eq!(world.exit, Some(4));
}

#[test]
fn a_worker_that_dies_before_it_is_ready_fails_the_boot_in_words() {
    let mut world = World::new(1, false);
    world.server_hello(1);
    world.server_loaded(1);
    let id = world.starting()[0];
    world.worker_hello(id);
    let exit = Exit::Signal {
        signal: Signal::SIGSEGV,
        core: true,
        out_of_memory: false,
    };
    world.worker_dies(id, exit);
    world.cooperate();
    assert_eq!(world.exit, Some(3));
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::BootFailed { cause } if cause.message.contains("SIGSEGV (core dumped)")
    )));
}

#[test]
fn an_unsuitable_interpreter_is_a_configuration_error() {
    let mut world = World::new(1, false);
    world.happen(Event::ForkServer {
        generation: 1,
        message: FromForkServer::Unsuitable {
            reason: "is Python 3.8".to_owned(),
        },
    });
    world.server_dies(1, Exit::Code(1));
    assert_eq!(world.exit, Some(1));
}

#[test]
fn a_program_that_is_no_interpreter_is_named() {
    let mut world = World::new(1, false);
    world.server_dies(1, Exit::Code(0));
    assert_eq!(world.exit, Some(1));
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::BootFailed { cause } if cause.message.contains("/usr/bin/python3 exited")
    )));
}

#[test]
fn the_boot_timeout_counts_from_before_the_fork() {
    let mut world = World::new(1, false);
    world.server_hello(1);
    world.server_loaded(1);
    world.pass(Duration::from_secs(60));
    cooperate_a_while(&mut world);
    assert_eq!(world.exit, Some(3));
}

#[test]
fn a_signal_during_the_boot_ends_it_cleanly() {
    for command in [Command::Stop, Command::StopQuickly] {
        for steps in 0..8 {
            let mut world = World::new(2, false);
            for _ in 0..steps {
                world.one_reaction();
            }
            world.command(command);
            cooperate_a_while(&mut world);
            assert_eq!(world.exit, Some(0), "{command:?} after {steps} steps");
            assert!(world.workers.is_empty() && world.servers.is_empty());
        }
    }
}

#[test]
fn an_import_that_hangs_is_killed_when_the_server_stops() {
    let mut world = World::new(1, false);
    world.server_hello(1);
    world.server_loaded(1);
    let id = world.starting()[0];
    world.worker_hello(id);
    world.command(Command::Stop);
    world.server_dies(1, Exit::Code(0));
    assert_eq!(world.exit, None);
    world.pass(Duration::from_secs(1));
    assert!(world.is_killed(id));
    world.worker_dies(id, KILLED);
    assert_eq!(world.exit, Some(0));
}
