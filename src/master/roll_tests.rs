//! How a reload takes the slots over: probation, strategies, missing workers.

use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::config::{ReloadStrategy, Size};
use rsgun_core::ipc::{DrainReason, ToWorker, WorkerId};

use super::event::{Command, Policy};
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{KILLED, TIMEOUT, World, count, import_error, policy};

const PROBATION: Duration = Duration::from_secs(5);

fn on_probation(workers: u32, preload: bool) -> (World, WorkerId) {
    let mut world = World::booted_of(Policy {
        reload_probation: PROBATION,
        ..policy(workers, preload)
    });
    world.command(Command::Reload);
    world.cooperate();
    let canary = world
        .serving()
        .into_iter()
        .find(|id| world.workers[id].identity.generation == 2);
    (world, canary.unwrap())
}

#[test]
fn the_canary_serves_beside_all_old_workers_until_its_probation_is_over() {
    let (mut world, _) = on_probation(3, false);
    assert_eq!(world.generations_serving(), [1, 1, 1, 2]);
    world.pass(Duration::from_millis(4_999));
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1, 1, 2]);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.generations_serving(), [1, 1, 2]);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2, 2]);
}

#[test]
fn a_canary_that_crashes_on_probation_takes_no_old_worker_with_it() {
    for preload in [false, true] {
        let (mut world, canary) = on_probation(2, preload);
        let before = world.serving();
        let exit = Exit::Signal {
            signal: Signal::SIGSEGV,
            core: false,
            out_of_memory: false,
        };
        world.worker_dies(canary, exit);
        assert!(world.state.reload.is_none());
        let failure = world.state.last_reload().unwrap().failure.clone().unwrap();
        assert!(
            failure.message.contains("was killed by SIGSEGV"),
            "{failure:?}"
        );
        world.cooperate();
        let after: Vec<WorkerId> = before.into_iter().filter(|id| *id != canary).collect();
        assert_eq!(world.serving(), after);
        assert_eq!(world.servers.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(
            count(&world, |notice| matches!(
                notice,
                Notice::WorkerDied { retry_in: None, .. }
            )),
            1
        );
    }
}

#[test]
fn a_canary_that_gets_stuck_on_probation_fails_with_its_stacks() {
    let mut world = World::booted_of(Policy {
        reload_probation: 3 * TIMEOUT,
        ..policy(1, false)
    });
    world.command(Command::Reload);
    world.cooperate();
    let canary = world.serving()[1];
    let now = world.now;
    world.workers.get_mut(&canary).unwrap().silent_since = Some(now);
    world.seconds(TIMEOUT.as_secs() + 1);
    world.answer_stacks(Some("Thread 1"));
    let failure = world.state.last_reload().unwrap().failure.clone().unwrap();
    assert!(failure.message.contains("was stuck"), "{failure:?}");
    assert_eq!(failure.traceback.as_deref(), Some("Thread 1"));
    world.cooperate();
    assert_eq!(world.generations_serving(), [1]);
}

#[test]
fn a_canary_above_the_hard_limit_of_memory_fails() {
    let (mut world, canary) = on_probation(2, false);
    let limit = world.policy.hard_max_rss.unwrap();
    world.workers.get_mut(&canary).unwrap().resident = Size::from_bytes(limit.bytes() + 1);
    world.seconds(2);
    let failure = world.state.last_reload().unwrap().failure.clone().unwrap();
    assert!(failure.message.contains("--hard-max-rss"), "{failure:?}");
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
}

#[test]
fn a_fork_server_that_dies_on_probation_takes_the_canary_along() {
    let (mut world, canary) = on_probation(2, true);
    world.server_dies(2, KILLED);
    assert_eq!(
        world.workers[&canary].order,
        Some(ToWorker::Drain {
            within_ms: 30_000,
            reason: DrainReason::Replaced
        })
    );
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
}

#[test]
fn an_old_worker_that_dies_on_probation_leaves_the_canary_in_its_place() {
    let (mut world, canary) = on_probation(1, true);
    let old = world.serving()[0];
    world.worker_dies(old, KILLED);
    world.server_dies(2, KILLED);
    assert_eq!(world.serving(), [canary], "nobody else serves");
    world.cooperate();
    assert_eq!(world.generations_serving(), [1], "the old code takes over");
}

#[test]
fn a_canary_is_not_sent_away_for_an_old_worker_that_is_dying() {
    let (mut world, canary) = on_probation(1, true);
    world.signs_come_late = true;
    let old = world.serving()[0];
    world.server_dies(2, KILLED);
    world.worker_dies(old, KILLED);
    world.pass(Duration::from_millis(250));
    assert_eq!(world.serving(), [canary]);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1]);
}

#[test]
fn a_canary_that_dies_as_its_probation_ends_has_not_survived_it() {
    let (mut world, canary) = on_probation(1, true);
    world.signs_come_late = true;
    world.worker_dies(canary, KILLED);
    world.pass(PROBATION);
    world.cooperate();
    assert_eq!(world.generations_serving(), [1]);
    assert!(world.state.last_reload().unwrap().failure.is_some());
}

#[test]
fn a_worker_that_dies_after_the_probation_stops_no_reload() {
    let (mut world, _) = on_probation(3, false);
    world.pass(PROBATION);
    let new = world
        .serving()
        .into_iter()
        .find(|id| world.workers[id].identity.generation == 2)
        .unwrap();
    world.worker_dies(new, KILLED);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2, 2]);
}

#[test]
fn a_canary_that_is_told_to_end_by_its_slot_is_no_failure() {
    let (mut world, _) = on_probation(1, false);
    world.command(Command::Dismiss);
    world.cooperate();
    world.pass(PROBATION);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2]);
    assert!(world.state.last_reload().unwrap().failure.is_none());
}

fn parallel(workers: u32) -> World {
    let mut world = World::booted_of(Policy {
        reload_strategy: ReloadStrategy::Parallel,
        ..policy(workers, true)
    });
    world.command(Command::Reload);
    world.until_a_start();
    world
}

#[test]
fn a_parallel_reload_starts_all_others_after_the_canary() {
    let mut world = parallel(4);
    let canary = world.starting();
    assert_eq!(canary.len(), 1);
    world.worker_hello(canary[0]);
    world.worker_ready(canary[0]);
    assert_eq!(world.starting().len(), 3);
    assert_eq!(world.generations_serving(), [1, 1, 1, 2]);
    let next = world.starting()[1];
    world.worker_hello(next);
    world.worker_ready(next);
    assert_eq!(world.generations_serving(), [1, 1, 2, 2]);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2, 2, 2]);
}

#[test]
fn a_parallel_reload_that_fails_halfway_goes_back() {
    let mut world = parallel(3);
    let canary = world.starting()[0];
    world.worker_hello(canary);
    world.worker_ready(canary);
    let next = world.starting()[0];
    world.worker_hello(next);
    world.worker_fails(next, import_error());
    let still_wanted = world
        .state
        .workers
        .values()
        .any(|worker| worker.identity.generation == 2 && worker.is_starting());
    assert!(!still_wanted, "the others are given up as well");
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1, 1]);
}

#[test]
fn so_many_workers_may_be_missing_and_no_more() {
    let mut world = World::booted_of(Policy {
        reload_max_unavailable: 2,
        ..policy(5, false)
    });
    world.command(Command::Reload);
    world.until_a_start();
    assert_eq!(world.serving().len(), 5, "the canary is one more");
    let canary = world.starting()[0];
    world.worker_hello(canary);
    world.worker_ready(canary);
    assert_eq!(world.starting().len(), 2);
    assert_eq!(world.generations_serving(), [1, 1, 2]);
    let first = world.starting()[0];
    world.worker_hello(first);
    world.worker_ready(first);
    assert_eq!(world.starting().len(), 2);
    assert_eq!(world.generations_serving(), [1, 2, 2]);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2; 5]);
    assert!(world.state.reload.is_none());
}

#[test]
fn a_reload_is_not_over_while_its_last_worker_starts() {
    let mut world = World::booted_of(Policy {
        reload_max_unavailable: 1,
        ..policy(2, true)
    });
    world.command(Command::Reload);
    while world.generations_serving() != [2] {
        world.one_reaction();
    }
    while world.workers.len() > 2 {
        let old = *world.workers.keys().next().unwrap();
        world.worker_reacts(old);
    }
    assert!(world.state.reload.is_some());
    let last = world.starting()[0];
    if !world.workers[&last].greeted {
        world.worker_hello(last);
    }
    world.worker_fails(last, import_error());
    assert!(world.state.last_reload().unwrap().failure.is_some());
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
}
