//! Reloads that go well, and reloads that do not.

use std::time::Duration;

use rsgun_core::ipc::FromForkServer;

use super::event::{Asked, Command, Event};
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{KILLED, World, count, import_error};

#[test]
fn a_reload_replaces_one_slot_after_the_other() {
    let mut world = World::booted(3, false);
    world.command(Command::Reload);
    assert_eq!(world.resolving, Some(2));
    let policy = world.policy.clone();
    world.resolving = None;
    world.happen(Event::Resolved {
        generation: 2,
        policy,
    });
    world.server_hello(2);
    world.server_loaded(2);
    for switched in 1..=3 {
        let starting = world.starting();
        assert_eq!(starting.len(), 1, "one at a time");
        assert_eq!(world.serving().len(), 3, "the old one serves until then");
        world.worker_hello(starting[0]);
        world.worker_ready(starting[0]);
        assert_eq!(
            world
                .generations_serving()
                .iter()
                .filter(|number| **number == 2)
                .count(),
            switched
        );
    }
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2, 2]);
    assert_eq!(world.servers.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(
        count(&world, |n| *n == Notice::Reloaded { generation: 2 }),
        1
    );
    assert!(world.state.last_reload().unwrap().failure.is_none());
    assert_eq!(world.last_call, world.serving());
}

#[test]
fn a_reload_is_over_when_no_old_worker_accepts() {
    let mut world = World::booted(1, false);
    world.command(Command::Reload);
    let old = world.serving()[0];
    while world.serving() == [old] {
        world.one_reaction();
    }
    assert!(world.state.reload.is_some());
    world.worker_draining(old);
    assert!(world.state.reload.is_none());
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    let generation = world.resolving.take().unwrap();
    world.happen(Event::ResolveFailed {
        generation,
        reason: "no such key".to_owned(),
    });
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
    assert_eq!(
        count(&world, |n| matches!(n, Notice::ReloadFailed { .. })),
        1
    );
    let outcome = world.state.last_reload().unwrap();
    assert_eq!(outcome.failure.as_ref().unwrap().message, "no such key");
}

#[test]
fn a_canary_that_fails_leaves_the_old_generation_alone() {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    world.until_a_failed_start();
    assert_eq!(world.generations_serving(), [1, 1]);
    assert_eq!(world.servers.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(
        count(&world, |n| matches!(
            n,
            Notice::ReloadFailed { switched: 0, .. }
        )),
        1
    );
    // The next one is not burdened by it.
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [3, 3]);
}

#[test]
fn a_canary_that_dies_has_replaced_nobody() {
    let mut world = World::new(2, false);
    world.policy.reload_probation = Duration::from_secs(5);
    world.cooperate();
    world.command(Command::Reload);
    while world.generations_serving() != [1, 1, 2] {
        world.one_reaction();
    }
    let canary = world.serving()[2];
    world.worker_dies(canary, KILLED);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
    assert_eq!(
        count(&world, |n| matches!(
            n,
            Notice::ReloadFailed { switched: 0, .. }
        )),
        1
    );
}

#[test]
fn a_canary_that_hangs_is_given_up() {
    let mut world = World::booted(1, false);
    world.command(Command::Reload);
    let canary = world.until_a_start();
    world.worker_hello(canary);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.asked, [Asked::Worker(canary)]);
    world.answer_stacks(Some("it imports"));
    assert!(world.is_killed(canary));
    let outcome = world.state.last_reload().unwrap();
    let traceback = outcome.failure.as_ref().unwrap().traceback.as_deref();
    assert_eq!(traceback, Some("it imports"));
    world.worker_dies(canary, KILLED);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1]);
    assert_eq!(world.servers.len(), 1);
}

#[test]
fn a_new_fork_server_that_fails_or_dies_leaves_the_old_one() {
    for dies in [false, true] {
        let mut world = World::booted(1, true);
        world.command(Command::Reload);
        while !world
            .servers
            .get(&2)
            .is_some_and(|server| server.configured)
        {
            world.one_reaction();
        }
        if !dies {
            world.happen(Event::ForkServer {
                generation: 2,
                message: FromForkServer::Failed(import_error()),
            });
        }
        world.server_dies(2, Exit::Code(3));
        assert!(world.state.reload.is_none());
        world.cooperate();
        assert_eq!(world.generations_serving(), [1]);
        assert!(world.state.last_reload().unwrap().failure.is_some());
    }
}

/// Lets a reload fail after the first of two slots was switched.
fn fail_halfway(preload: bool) -> World {
    let mut world = World::booted(2, preload);
    world.command(Command::Reload);
    while world.generations_serving() != [1, 2] {
        world.one_reaction();
    }
    let next = world.starting()[0];
    world.worker_hello(next);
    world.worker_fails(next, import_error());
    assert!(world.state.reload.is_none());
    world.cooperate();
    world
}

#[test]
fn a_failure_halfway_is_rolled_back_with_preload() {
    let world = fail_halfway(true);
    assert_eq!(world.generations_serving(), [1, 1]);
    assert_eq!(world.servers.len(), 1);
}

#[test]
fn a_failure_halfway_is_kept_without_preload() {
    let mut world = fail_halfway(false);
    assert_eq!(world.generations_serving(), [1, 2]);
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [3, 3]);
}

#[test]
fn of_many_reloads_during_one_exactly_one_more_follows() {
    let mut world = World::booted(2, false);
    for _ in 0..5 {
        world.command(Command::Reload);
    }
    world.cooperate();
    assert_eq!(world.generations_serving(), [3, 3]);
    assert_eq!(count(&world, |n| matches!(n, Notice::Reloaded { .. })), 2);
}

#[test]
fn a_reload_during_the_boot_follows_it() {
    let mut world = World::new(2, false);
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn a_reload_applies_the_number_of_workers_and_keeps_adjustments() {
    let mut world = World::booted(2, false);
    world.command(Command::More);
    world.policy.workers = 4;
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2; 5]);
    world.policy.workers = 1;
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [3; 2]);
}

#[test]
fn slots_that_the_new_configuration_does_without_are_not_exchanged() {
    for probation in [0, 1] {
        let mut world = World::booted(3, false);
        world.policy.workers = 1;
        world.policy.reload_probation = Duration::from_secs(probation);
        world.command(Command::Reload);
        world.cooperate();
        world.pass(Duration::from_secs(1));
        world.cooperate();
        assert_eq!(world.generations_serving(), [2]);
        let started = |n: &Notice| matches!(n, Notice::WorkerReady { worker } if worker.identity.generation == 2);
        assert_eq!(count(&world, started), 1);
        let (before, after) = (3, 1);
        assert_eq!(
            count(&world, |n| *n == Notice::WorkersWanted { before, after }),
            1
        );
    }
}

#[test]
fn an_old_worker_that_dies_during_a_reload_is_replaced() {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    world.until_a_start();
    let victim = world.serving()[1];
    world.worker_dies(victim, KILLED);
    assert_eq!(world.starting().len(), 2);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}
