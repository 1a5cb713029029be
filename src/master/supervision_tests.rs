//! What becomes of the slots whose workers, or whose fork server, end.

use std::time::Duration;

use rsgun_core::ipc::FromForkServer;

use super::event::Event;
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{ForkServer, KILLED, World, count, import_error};

#[test]
fn a_worker_that_dies_is_replaced_at_once_and_then_with_delay() {
    let mut world = World::booted(2, false);
    let mut delays = Vec::new();
    for _ in 0..5 {
        let victim = *world
            .serving()
            .iter()
            .find(|id| world.workers[id].identity.slot == 1)
            .unwrap();
        world.worker_dies(victim, KILLED);
        let told = world.notices.iter().rev().find_map(|notice| match notice {
            Notice::WorkerDied { retry_in, .. } => *retry_in,
            _ => None,
        });
        let retry_in = told.expect("nobody was told");
        delays.push(retry_in.as_millis());
        assert_eq!(world.starting().len(), usize::from(retry_in.is_zero()));
        world.pass(retry_in);
        world.cooperate();
        assert_eq!(world.serving().len(), 2);
        world.notices.clear();
    }
    assert_eq!(delays, [0, 100, 200, 400, 800]);
    assert_eq!(world.exit, None);
}

#[test]
fn no_failure_of_workers_ends_a_master_that_has_served() {
    let mut world = World::booted(3, false);
    for id in world.serving() {
        world.worker_dies(id, Exit::Code(3));
    }
    for _ in 0..20 {
        while let Some(id) = world.starting().first().copied() {
            if !world.workers[&id].greeted {
                world.worker_hello(id);
            }
            world.worker_fails(id, import_error());
        }
        world.pass(Duration::from_secs(31));
    }
    assert_eq!(world.exit, None);
    world.cooperate();
    assert_eq!(world.serving().len(), 3);
}

#[test]
fn a_worker_that_drains_by_itself_is_replaced() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.worker_draining(id);
    assert_eq!(world.starting().len(), 1);
    world.cooperate();
    assert_eq!(world.serving().len(), 1);
    assert_eq!(count(&world, |n| matches!(n, Notice::WorkerDied { .. })), 0);
}

#[test]
fn workers_that_drain_as_soon_as_they_are_ready_are_replaced_ever_later() {
    let mut world = World::booted(1, false);
    let mut delays = Vec::new();
    for _ in 0..5 {
        let id = world.serving()[0];
        world.worker_draining(id);
        let mut delay = 0;
        while world.starting().is_empty() {
            world.pass(Duration::from_millis(50));
            delay += 50;
        }
        delays.push(delay);
        world.cooperate();
    }
    assert_eq!(delays, [0, 100, 200, 400, 800]);
}

#[test]
fn a_fork_server_that_dies_gets_a_successor_and_the_workers_stay() {
    let mut world = World::booted(2, true);
    world.server_dies(1, KILLED);
    assert_eq!(world.serving().len(), 2);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 2]);
}

#[test]
fn a_request_that_dies_with_the_fork_server_is_repeated_without_blame() {
    let mut world = World::booted(1, false);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    world.notices.clear();
    assert_eq!(world.starting().len(), 1);
    world.server_dies(1, KILLED);
    world.pass(Duration::from_millis(250));
    world.cooperate();
    assert_eq!(
        count(&world, |n| matches!(n, Notice::WorkerFailed { .. })),
        0
    );
    assert_eq!(world.generations_serving(), [2]);
}

#[test]
fn a_fork_server_that_cannot_load_any_more_is_retried_with_delay() {
    let mut world = World::booted(2, true);
    world.server_dies(1, KILLED);
    for attempt in 0..6 {
        let (number, _) = world.servers.pop_first().unwrap();
        world.servers.insert(
            number,
            ForkServer {
                pid: 101 + 3 + attempt,
                ..Default::default()
            },
        );
        world.servers.get_mut(&number).unwrap().pid =
            world.state.generations[&number].server.pid.unwrap();
        world.server_hello(number);
        world.happen(Event::ForkServer {
            generation: number,
            message: FromForkServer::Failed(import_error()),
        });
        world.server_dies(number, Exit::Code(3));
        let told = world.notices.iter().rev().find_map(|notice| match notice {
            Notice::ForkServerFailed { retry_in, .. } => Some(*retry_in),
            _ => None,
        });
        let retry_in = told.expect("nobody was told");
        assert!(attempt == 0 || retry_in >= Duration::from_millis(100));
        assert_eq!(world.serving().len(), 2);
        world.pass(retry_in);
    }
}
