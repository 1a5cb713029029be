//! Stops: how urgent they are, what they wait for, and how they end.

use std::time::Duration;

use rsgun_core::ipc::{DrainReason, ToWorker, WorkerId};

use super::event::{Command, Policy};
use super::health_tests::ends_of_question;
use super::notice::Notice;
use super::state_world::{KILLED, World, count, policy};
use super::stop::Urgency;

#[test]
fn term_drains_and_the_listeners_go_with_the_last_one_that_accepts() {
    let mut world = World::booted(2, false);
    let ids = world.serving();
    world.command(Command::Stop);
    for id in &ids {
        assert_eq!(
            world.workers[id].order,
            Some(ToWorker::Drain {
                within_ms: 30_000,
                reason: DrainReason::Stop
            })
        );
    }
    world.worker_draining(ids[0]);
    assert!(!world.listeners_closed);
    world.worker_draining(ids[1]);
    assert!(world.listeners_closed);
    world.command(Command::Stop);
    assert_eq!(world.exit, None);
    world.cooperate();
    assert_eq!(world.exit, Some(0));
    assert_eq!(world.notices.last(), Some(&Notice::Finished));
}

#[test]
fn whoever_is_ended_by_the_question_for_its_stacks_was_overdue() {
    for exit in ends_of_question() {
        let mut world = World::booted(1, false);
        let id = world.serving()[0];
        world.command(Command::Stop);
        world.worker_draining(id);
        world.pass(Duration::from_secs(35));
        world.worker_dies(id, exit);
        world.cooperate();
        let overdue = |n: &Notice| matches!(n, Notice::WorkerOverdue { stacks: None, .. });
        assert_eq!(count(&world, overdue), 1);
        assert_eq!(
            count(&world, |n| matches!(n, Notice::WorkerEnded { .. })),
            0
        );
        assert_eq!(world.exit, Some(0));
    }
}

#[test]
fn whoever_outstays_the_graceful_timeout_is_killed() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.command(Command::Stop);
    world.worker_draining(id);
    world.pass(Duration::from_secs(34));
    assert!(!world.is_killed(id));
    world.pass(Duration::from_secs(1));
    assert!(!world.is_killed(id), "its stacks come first");
    world.answer_stacks(Some("Thread 1"));
    assert!(world.is_killed(id));
    assert_eq!(
        count(
            &world,
            |n| matches!(n, Notice::WorkerOverdue { stacks: Some(text), .. } if text == "Thread 1")
        ),
        1
    );
    world.cooperate();
    assert_eq!(world.exit, Some(0));
}

#[test]
fn int_after_term_is_quick_and_int_after_int_is_at_once() {
    let mut world = World::booted(2, false);
    world.command(Command::Stop);
    world.command(Command::StopQuickly);
    for id in world.workers.keys() {
        assert_eq!(world.workers[id].order, Some(ToWorker::Quit));
    }
    world.command(Command::StopQuickly);
    let ids: Vec<WorkerId> = world.workers.keys().copied().collect();
    assert!(ids.iter().all(|id| world.is_killed(*id)));
    assert!(world.is_killed_server(1));
    world.cooperate();
    assert_eq!(world.exit, Some(0));
    let urgencies: Vec<Urgency> = world
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::Stopping { urgency } => Some(*urgency),
            _ => None,
        })
        .collect();
    assert_eq!(urgencies, [Urgency::Graceful, Urgency::Quick, Urgency::Now]);
}

#[test]
fn a_quick_stop_leaves_time_for_the_shutdown_of_the_application() {
    let mut world = World::booted(1, false);
    let id = world.serving()[0];
    world.command(Command::StopQuickly);
    world.pass(Duration::from_millis(9_900));
    assert!(!world.is_killed(id) && world.asked.is_empty());
    world.pass(Duration::from_secs(3));
    assert!(world.is_killed(id));
}

#[test]
fn a_process_that_even_sigkill_does_not_end_is_left_behind() {
    let mut world = World::booted(1, false);
    world.command(Command::StopQuickly);
    world.command(Command::Stop);
    world.server_dies(1, KILLED);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.exit, Some(0));
    assert_eq!(count(&world, |n| matches!(n, Notice::LeftBehind { .. })), 1);
}

#[test]
fn commands_after_the_stop_do_nothing() {
    let mut world = World::booted(1, false);
    world.command(Command::Stop);
    for command in [
        Command::Reload,
        Command::More,
        Command::Fewer,
        Command::Upgrade,
    ] {
        world.command(command);
    }
    world.cooperate();
    assert_eq!(world.exit, Some(0));
    assert_eq!(world.resolving, None);
}

// === with a delay ===

const DELAY: Duration = Duration::from_secs(10);

fn with_delay(workers: u32) -> World {
    World::booted_of(Policy {
        drain_delay: DELAY,
        ..policy(workers, false)
    })
}

#[test]
fn during_the_delay_everybody_serves_and_says_so() {
    let mut world = with_delay(2);
    world.command(Command::Stop);
    assert_eq!(world.serving().len(), 2);
    assert!(world.workers.values().all(|worker| worker.stops_soon));
    world.pass(Duration::from_millis(9_999));
    assert_eq!(world.serving().len(), 2);
    assert!(!world.listeners_closed);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.serving().len(), 0);
    world.cooperate();
    assert_eq!(world.exit, Some(0));
    assert_eq!(
        count(&world, |n| *n == Notice::StopsSoon { delay: DELAY }),
        1
    );
}

#[test]
fn a_second_term_or_an_int_ends_the_delay() {
    for (second, urgency) in [
        (Command::Stop, Urgency::Graceful),
        (Command::StopQuickly, Urgency::Quick),
    ] {
        let mut world = with_delay(1);
        world.command(Command::Stop);
        world.command(second);
        assert_eq!(world.serving().len(), 0);
        assert_eq!(count(&world, |n| *n == Notice::Stopping { urgency }), 1);
        world.cooperate();
        assert_eq!(world.exit, Some(0));
    }
}

#[test]
fn whoever_dies_during_the_delay_is_replaced() {
    let mut world = with_delay(2);
    world.command(Command::Stop);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    world.cooperate();
    assert_eq!(world.serving().len(), 2);
    assert!(world.workers.values().all(|worker| worker.stops_soon));
}

#[test]
fn nothing_else_is_wished_for_during_the_delay() {
    let mut world = with_delay(2);
    world.command(Command::Stop);
    for command in [
        Command::Reload,
        Command::More,
        Command::Fewer,
        Command::Dismiss,
    ] {
        world.command(command);
    }
    world.cooperate();
    assert_eq!(world.generations_serving(), [1, 1]);
    assert_eq!(world.resolving, None);
    // The signal to stop was sent to all processes.
    world.server_dies(1, KILLED);
    assert_eq!(
        count(&world, |n| matches!(n, Notice::ForkServerFailed { .. })),
        0
    );
    world.command(Command::ReopenLogs);
    assert_eq!(count(&world, |n| *n == Notice::LogsReopened), 1);
}

#[test]
fn a_reload_in_progress_goes_on_during_the_delay() {
    let mut world = with_delay(2);
    world.command(Command::Reload);
    world.command(Command::Reload);
    world.command(Command::Stop);
    world.cooperate();
    assert_eq!(
        world.generations_serving(),
        [2, 2],
        "the one that waited is off"
    );
    world.pass(DELAY);
    world.cooperate();
    assert_eq!(world.exit, Some(0));
}

#[test]
fn a_boot_is_stopped_without_delay() {
    let mut world = World::of(Policy {
        drain_delay: DELAY,
        ..policy(1, false)
    });
    world.command(Command::Stop);
    world.cooperate();
    assert_eq!(world.exit, Some(0));
}
