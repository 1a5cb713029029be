//! Which words of processes count, and about whom.

use std::time::Duration;

use rsgun_core::ipc::{FromForkServer, FromWorker, WorkerId};

use super::event::{Command, Event};
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{KILLED, World, count, import_error};

#[test]
fn exits_that_are_known_before_their_hello_are_not_lost() {
    let mut world = World::booted(1, false);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    let id = world.starting()[0];
    let pid = world.workers[&id].pid;
    world.happen(Event::Exited {
        pid,
        exit: Exit::Code(9),
    });
    world.workers.remove(&id);
    world.happen(Event::Worker {
        id,
        message: FromWorker::Hello { pid },
    });
    world.happen(Event::WorkerClosed { id });
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::WorkerFailed { cause, .. } if cause.message.contains("exited with code 9")
    )));
}

/// What a worker says that it is.
fn hello(world: &mut World, id: WorkerId, pid: i32) {
    world.happen(Event::Worker {
        id,
        message: FromWorker::Hello { pid },
    });
}

#[test]
fn a_worker_that_serves_is_who_it_is() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    let pid = world.workers[&id].pid;
    for other in [7777, pid, 1, 0, -1, i32::MIN] {
        hello(&mut world, id, other);
        assert_eq!(world.state.workers[&id].pid, Some(pid));
        assert_eq!(world.serving(), [id]);
    }
}

#[test]
fn a_new_worker_is_nobody_whom_the_master_knows() {
    let mut world = World::booted(2, false);
    let [victim, other] = world.serving()[..] else {
        panic!("two workers");
    };
    let server = world.servers[&1].pid;
    let known = world.workers[&other].pid;
    world.worker_dies(victim, KILLED);
    let id = world.starting()[0];
    for pid in [server, known, 1, 0, -1, i32::MIN] {
        hello(&mut world, id, pid);
        assert_eq!(world.state.workers[&id].pid, None, "{pid}");
    }
    // Nor does anything else count as long as it is nobody.
    world.happen(Event::Worker {
        id,
        message: FromWorker::Ready,
    });
    assert_eq!(world.serving(), [other]);
    world.cooperate();
    assert_eq!(world.serving().len(), 2);
}

/// A reload whose fork server has just said hello, and its generation.
fn reload_begun() -> (World, u32) {
    let mut world = World::booted(1, false);
    world.command(Command::Reload);
    let generation = world.resolving.take().unwrap();
    let policy = world.policy.clone();
    world.happen(Event::Resolved { generation, policy });
    world.server_hello(2);
    (world, generation)
}

#[test]
fn a_fork_server_speaks_for_its_own_workers() {
    let (mut world, _) = reload_begun();
    world.server_loaded(2);
    let id = world.starting()[0];
    let error = "of another's".to_owned();
    world.happen(Event::ForkServer {
        generation: 1,
        message: FromForkServer::SpawnFailed { id, error },
    });
    assert_eq!(world.starting(), [id]);
    assert!(world.state.reload.is_some());
}

#[test]
fn who_says_that_it_fails_has_a_moment_to_end_and_no_more() {
    let (mut world, generation) = reload_begun();
    for _ in 0..4 {
        let message = FromForkServer::Failed(import_error());
        world.happen(Event::ForkServer {
            generation,
            message,
        });
        world.pass(Duration::from_millis(900));
    }
    assert!(world.is_killed_server(2));
}

#[test]
fn a_fork_server_greets_once() {
    let mut world = World::new(1, false);
    for _ in 0..3 {
        world.server_hello(1);
    }
    let greeted = count(&world, |notice| matches!(notice, Notice::Starting { .. }));
    assert_eq!(greeted, 1);
}

#[test]
fn foreign_children_are_nobodys_business() {
    let mut world = World::booted(1, false);
    for pid in 5000..5100 {
        world.happen(Event::Exited {
            pid,
            exit: Exit::Code(3),
        });
    }
    assert!(world.notices.is_empty());
    assert_eq!(world.serving().len(), 1);
}
