//! The decisions of the master about workers that hang, grow or have served enough.

use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::config::Size;
use rsgun_core::ipc::WorkerId;
use rsgun_core::sys::stacks;

use super::event::{Asked, Command, Event};
use super::exit::Exit;
use super::notice::Notice;
use super::state_world::{TIMEOUT, World, count, import_error};

// === workers that hang ===

/// A world with a worker that has been silent for as long as it may.
fn stuck(workers: u32) -> (World, WorkerId) {
    let mut world = World::booted(workers, false);
    let id = world.serving()[0];
    world.workers.get_mut(&id).unwrap().silent_since = Some(world.now);
    world.seconds(TIMEOUT.as_secs() - 1);
    assert!(world.asked.is_empty(), "it has its time");
    world.seconds(1);
    assert_eq!(world.asked, [Asked::Worker(id)]);
    (world, id)
}

#[test]
fn a_silent_worker_is_asked_for_its_stacks_then_aborted_then_killed() {
    let (mut world, id) = stuck(2);
    assert_eq!(world.starting().len(), 0);
    world.answer_stacks(Some("Thread 1"));
    assert!(world.is_aborted(id));
    assert_eq!(world.starting().len(), 1, "its place is taken at once");
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::WorkerStuck { stacks: Some(text), silent, .. }
            if text == "Thread 1" && *silent == TIMEOUT
    )));
    world.seconds(1);
    assert!(world.is_killed(id));
    world.cooperate();
    assert_eq!(world.serving().len(), 2);
    assert_eq!(count(&world, |n| matches!(n, Notice::WorkerDied { .. })), 0);
}

#[test]
fn a_worker_in_a_debugger_may_be_silent() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.worker_debugged(id);
    world.workers.get_mut(&id).unwrap().silent_since = Some(world.now);
    world.seconds(10 * TIMEOUT.as_secs());
    assert!(world.asked.is_empty());
    assert_eq!(world.serving(), [id]);
    world.worker_spent(id);
    let late = world.starting()[0];
    world.worker_hello(late);
    world.worker_debugged(late);
    world.seconds(600);
    assert!(world.asked.is_empty(), "nor is a start limited");
}

#[test]
fn a_silent_worker_that_does_not_answer_is_not_waited_for() {
    let (mut world, id) = stuck(1);
    world.seconds(2);
    assert!(world.is_aborted(id));
    assert!(
        world
            .notices
            .iter()
            .any(|notice| matches!(notice, Notice::WorkerStuck { stacks: None, .. }))
    );
    // The answer comes all the same.
    world.answer_stacks(Some("late"));
    world.cooperate();
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn a_silent_worker_that_dies_while_it_is_asked_has_died() {
    let (mut world, id) = stuck(1);
    world.worker_dies(id, Exit::Code(7));
    world.cooperate();
    assert_eq!(count(&world, |n| matches!(n, Notice::WorkerDied { .. })), 1);
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn a_silent_worker_that_the_question_ends_was_stuck() {
    for exit in ends_of_question() {
        let (mut world, id) = stuck(1);
        world.worker_dies(id, exit);
        world.cooperate();
        assert_eq!(count(&world, |n| matches!(n, Notice::WorkerDied { .. })), 0);
        let told = |n: &Notice| matches!(n, Notice::WorkerStuck { stacks: None, .. });
        assert_eq!(count(&world, told), 1);
        assert_eq!(world.serving().len(), 1);
    }
}

/// How a process ends that is asked for its stacks and cannot answer.
pub(super) fn ends_of_question() -> [Exit; 2] {
    let segmentation_fault = Exit::Signal {
        signal: Signal::SIGSEGV,
        core: false,
        out_of_memory: false,
    };
    let number = stacks::signal_number();
    [segmentation_fault, Exit::RealTime { number }]
}

#[test]
fn a_worker_that_is_ready_while_it_is_asked_serves_and_may_be_asked_again() {
    let mut world = World::booted(1, false);
    let first = world.serving()[0];
    world.worker_spent(first);
    let id = world.starting()[0];
    world.worker_hello(id);
    world.seconds(60);
    assert_eq!(world.asked, [Asked::Worker(id)]);
    world.worker_ready(id);
    world.happen(Event::Stacks {
        of: Asked::Worker(id),
        stacks: Some("it imports".to_owned()),
    });
    world.seconds(5);
    assert!(world.serving().contains(&id));
    world.workers.get_mut(&id).unwrap().silent_since = Some(world.now);
    world.seconds(TIMEOUT.as_secs());
    assert_eq!(world.asked, [Asked::Worker(id)]);
}

#[test]
fn a_worker_that_comes_round_in_time_is_left_alone() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    for _ in 0..3 {
        world.workers.get_mut(&id).unwrap().silent_since = Some(world.now);
        world.seconds(TIMEOUT.as_secs() - 1);
        world.workers.get_mut(&id).unwrap().silent_since = None;
        world.seconds(1);
    }
    assert_eq!(world.serving(), [id]);
    assert!(world.asked.is_empty());
}

#[test]
fn a_worker_that_hangs_while_it_drains_is_found_by_the_same_limit() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.workers.get_mut(&id).unwrap().silent_since = Some(world.now);
    world.seconds(5);
    world.command(Command::Stop);
    world.seconds(5);
    world.answer_stacks(Some("Thread 1"));
    assert!(world.is_aborted(id));
    world.seconds(1);
    assert!(world.is_killed(id));
    world.cooperate();
    assert_eq!(world.exit, Some(0));
}

#[test]
fn without_a_timeout_nobody_is_looked_at() {
    let mut world = World::new(1, false);
    let generation = world.state.generations.get_mut(&1).unwrap();
    generation.policy.timeout = None;
    generation.policy.max_rss = None;
    generation.policy.hard_max_rss = None;
    world.cooperate();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn a_fork_server_that_hangs_in_the_import_is_asked_too() {
    let mut world = World::new(1, true);
    world.server_hello(1);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.asked, [Asked::ForkServer(1)]);
    world.answer_stacks(Some("it imports"));
    assert!(world.notices.iter().any(|notice| matches!(
        notice,
        Notice::BootFailed { cause } if cause.traceback.as_deref() == Some("it imports")
    )));
    world.cooperate();
    assert_eq!(world.exit, Some(3));
}

// === recycling ===

#[test]
fn spent_workers_are_replaced_one_after_the_other_replacement_first() {
    let mut world = World::booted(3, false);
    for id in world.serving() {
        world.worker_spent(id);
        world.worker_spent(id);
    }
    for _ in 0..3 {
        assert_eq!(world.starting().len(), 1, "one at a time");
        assert_eq!(world.serving().len(), 3);
        let id = world.starting()[0];
        world.worker_hello(id);
        assert_eq!(world.serving().len(), 3);
        world.worker_ready(id);
    }
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1, 1]);
    assert_eq!(count(&world, |n| matches!(n, Notice::Recycling { .. })), 3);
    assert_eq!(world.servers.len(), 1, "no new generation for it");
}

#[test]
fn a_slot_whose_former_worker_drains_waits() {
    let mut world = World::booted(1, false);
    let first = world.serving()[0];
    world.worker_spent(first);
    let second = world.starting()[0];
    world.worker_hello(second);
    world.worker_ready(second);
    world.worker_spent(second);
    assert_eq!(world.starting(), []);
    world.worker_dies(first, Exit::Code(0));
    assert_eq!(world.starting().len(), 1);
}

#[test]
fn a_replacement_that_fails_leaves_the_worker_and_is_tried_again() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.worker_spent(id);
    for _ in 0..3 {
        let replacement = world.starting()[0];
        world.worker_hello(replacement);
        world.worker_fails(replacement, import_error());
        assert_eq!(world.serving(), [id]);
        world.pass(Duration::from_secs(1));
    }
    world.cooperate();
    assert_ne!(world.serving(), [id]);
}

#[test]
fn recycling_waits_for_the_end_of_a_reload() {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    for id in world.serving() {
        world.worker_spent(id);
    }
    assert!(world.starting().is_empty());
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
    assert_eq!(count(&world, |n| matches!(n, Notice::Recycling { .. })), 0);
}

#[test]
fn a_reload_waits_for_the_replacement_that_recycling_has_asked_for() {
    let mut world = World::booted(2, false);
    let id = world.serving()[0];
    world.worker_spent(id);
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn a_lifetime_ends_in_a_replacement() {
    let mut world = World::new(2, false);
    let generation = world.state.generations.get_mut(&1).unwrap();
    generation.policy.max_lifetime = Some(Duration::from_secs(100));
    generation.policy.max_lifetime_jitter = Duration::from_secs(50);
    world.cooperate();
    let first = world.serving();
    world.seconds(99);
    assert_eq!(world.serving(), first);
    world.seconds(52);
    assert_eq!(count(&world, |n| matches!(n, Notice::Recycling { .. })), 1);
    world.cooperate();
    world.seconds(1);
    world.cooperate();
    assert!(world.serving().iter().all(|id| !first.contains(id)));
}

#[test]
fn a_worker_that_stays_too_large_is_replaced() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.seconds(10);
    let set = |world: &mut World, bytes| {
        world.workers.get_mut(&id).unwrap().resident = Size::from_bytes(bytes);
    };
    set(&mut world, 1500);
    world.seconds(2);
    set(&mut world, 900);
    world.seconds(1);
    set(&mut world, 1500);
    world.seconds(2);
    assert!(world.starting().is_empty(), "peaks do not count");
    world.seconds(1);
    assert_eq!(world.starting().len(), 1);
    world.cooperate();
    assert_eq!(world.serving().len(), 1);
    assert_ne!(world.serving(), [id]);
}

#[test]
fn a_worker_above_the_hard_limit_is_killed_at_once() {
    let mut world = World::booted(2, false);
    let id = world.serving()[0];
    world.workers.get_mut(&id).unwrap().resident = Size::from_bytes(2000);
    world.seconds(1);
    assert!(world.is_killed(id));
    assert_eq!(world.starting().len(), 1);
    assert_eq!(
        count(&world, |n| matches!(n, Notice::WorkerTooLarge { .. })),
        1
    );
    world.cooperate();
    assert_eq!(world.serving().len(), 2);
}
