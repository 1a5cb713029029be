//! Nobody is blamed for the time in which nobody ran.

use std::time::Duration;

use rsgun_core::ipc::{DrainReason, ToWorker};

use super::event::{Asked, Command, Event, Policy, Reading};
use super::state_world::{KILLED, TIMEOUT, World, policy};

/// The settings of a server without any limit that the master looks at workers for.
fn without_looks(workers: u32) -> Policy {
    Policy {
        timeout: None,
        max_rss: None,
        hard_max_rss: None,
        ..policy(workers, false)
    }
}

#[test]
fn after_a_pause_of_the_master_the_time_begins_anew() {
    let mut world = World::booted(2, false);
    for id in world.serving() {
        world.workers.get_mut(&id).unwrap().silent_since = Some(world.now);
    }
    world.wake_after(Duration::from_secs(3600));
    world.seconds(TIMEOUT.as_secs() - 1);
    assert!(world.asked.is_empty());
    world.seconds(1);
    assert_eq!(world.asked.len(), 2);
}

#[test]
fn a_pause_is_not_counted_against_who_drains() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.command(Command::Stop);
    world.seconds(25);
    world.wake_after(Duration::from_secs(3600));
    world.seconds(5);
    assert!(world.asked.is_empty() && !world.is_killed(id));
    world.seconds(10);
    assert_eq!(world.asked, [Asked::Worker(id)]);
}

#[test]
fn a_pause_is_not_counted_against_who_starts() {
    let mut world = World::new(1, false);
    world.server_hello(1);
    world.seconds(55);
    world.wake_after(Duration::from_secs(3600));
    world.seconds(4);
    assert_eq!(world.exit, None);
    assert!(world.asked.is_empty());
    world.seconds(10);
    assert_eq!(world.asked, [Asked::ForkServer(1)]);
}

#[test]
fn a_pause_is_not_counted_against_who_is_on_probation() {
    let mut world = World::new(1, false);
    world.policy.reload_probation = Duration::from_secs(20);
    world.cooperate();
    world.command(Command::Reload);
    while world.generations_serving() != [1, 2] {
        world.one_reaction();
    }
    world.wake_after(Duration::from_secs(3600));
    world.seconds(10);
    assert_eq!(
        world.generations_serving(),
        [1, 2],
        "it must still show itself"
    );
}

#[test]
fn a_pause_does_not_count_that_begins_and_ends_before_the_deadline() {
    let mut world = World::booted_of(without_looks(1));
    let id = world.serving()[0];
    world.command(Command::Stop);
    world.pass(Duration::from_secs(5));
    world.wake_after(Duration::from_secs(20));
    assert_eq!(
        world.workers[&id].order,
        Some(ToWorker::Drain {
            within_ms: 25_000,
            reason: DrainReason::Replaced
        }),
        "it is told how long it may go on"
    );
    world.pass(Duration::from_secs(29));
    assert!(world.asked.is_empty(), "30 s, and 5 to end");
    world.pass(Duration::from_secs(2));
    assert_eq!(world.asked, [Asked::Worker(id)]);
}

#[test]
fn a_pause_does_not_count_that_ends_right_after_the_deadline() {
    let mut world = World::booted_of(without_looks(1));
    world.command(Command::Stop);
    world.pass(Duration::from_secs(5));
    world.wake_after(Duration::from_secs(31));
    world.pass(Duration::from_secs(29));
    assert!(world.asked.is_empty());
}

#[test]
fn who_was_told_to_end_at_once_gets_no_more_time_for_requests() {
    let mut world = World::booted_of(without_looks(1));
    let id = world.serving()[0];
    world.command(Command::StopQuickly);
    world.wake_after(Duration::from_secs(20));
    assert_eq!(world.workers[&id].order, Some(ToWorker::Quit));
    assert!(!world.is_killed(id));
    world.pass(Duration::from_secs(9));
    assert!(!world.is_killed(id));
    world.pass(Duration::from_secs(4));
    assert!(world.is_killed(id));
}

#[test]
fn a_server_without_limits_does_not_wake() {
    let mut world = World::booted_of(without_looks(2));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.state.next_deadline(), None);
    world.wake_after(Duration::from_secs(3600));
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn a_look_from_before_a_pause_shows_nothing() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    let heartbeat = world.now;
    world.pass(Duration::from_millis(900));
    let before = world.state.workers[&id].silent_since;
    world.now = world.now + Duration::from_secs(3600);
    world.happen(Event::Inspected {
        readings: vec![Reading {
            id,
            phase: rsgun_core::scoreboard::Phase::Serving,
            heartbeat,
            busy_ms: 0,
            resident: None,
        }],
    });
    assert_eq!(world.state.workers[&id].silent_since, before);
    assert!(world.asked.is_empty());
}

#[test]
fn a_short_timeout_makes_shorter_pauses_count() {
    let short = Policy {
        timeout: Some(Duration::from_secs(1)),
        ..policy(1, false)
    };
    let mut world = World::booted_of(short);
    let id = world.serving()[0];
    world.workers.get_mut(&id).unwrap().silent_since = Some(world.now);
    world.wake_after(Duration::from_millis(1100));
    assert!(world.asked.is_empty());
}

#[test]
fn a_pause_is_not_counted_against_a_candidate() {
    let mut world = World::booted(1, false);
    world.command(Command::Upgrade);
    world.seconds(25);
    world.wake_after(Duration::from_secs(3600));
    world.seconds(4);
    assert!(world.state.last_upgrade.is_none());
    // Nor against its exit, when its last words are waited for.
    world.candidate_reacts();
    world.signs_come_late = true;
    world.candidate_dies(KILLED);
    world.wake_after(Duration::from_secs(3600));
    assert!(world.state.last_upgrade.is_none());
    world.cooperate();
    assert!(world.state.last_upgrade.is_some());
}

#[test]
fn a_pause_between_the_two_signs_of_an_end_is_no_misdeed() {
    let mut world = World::booted_of(without_looks(1));
    let id = world.serving()[0];
    world.happen(Event::WorkerClosed { id });
    world.wake_after(Duration::from_secs(3600));
    assert_eq!(
        world.state.slots[&1].current,
        Some(id),
        "its exit may follow"
    );
}

#[test]
fn killed_processes_have_their_time_after_a_pause() {
    let mut world = World::booted_of(without_looks(1));
    world.command(Command::StopQuickly);
    world.command(Command::StopQuickly);
    world.wake_after(Duration::from_secs(3600));
    assert_eq!(world.exit, None);
    world.cooperate();
    assert_eq!(world.exit, Some(0));
}
