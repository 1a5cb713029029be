//! What the operator wishes for by a signal.

use std::time::Duration;

use rsgun_core::ipc::ToWorker;

use super::event::Command;
use super::notice::Notice;
use super::state_world::{World, count};

#[test]
fn ttin_and_ttou_change_the_number_and_one_worker_remains() {
    let mut world = World::booted(2, false);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.serving().len(), 3);
    for _ in 0..5 {
        world.command(Command::Fewer);
    }
    world.cooperate();
    assert_eq!(world.serving().len(), 1);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(
        world.serving().len(),
        2,
        "what had no effect does not count"
    );
}

#[test]
fn a_worker_that_was_ready_before_it_was_unwanted_answers_what_it_has() {
    for reads_it in [true, false] {
        let mut world = World::booted(1, false);
        world.command(Command::More);
        let id = world.starting()[0];
        world.worker_hello(id);
        world.command(Command::Fewer);
        let order = world.workers[&id].order;
        let drains = matches!(
            order,
            Some(ToWorker::Drain {
                within_ms: 30_000,
                ..
            })
        );
        assert!(drains, "{order:?}");
        if reads_it {
            world.worker_ready(id);
        }
        world.pass(Duration::from_secs(29));
        assert_eq!(world.is_killed(id), !reads_it);
    }
}

#[test]
fn winch_sends_all_workers_away_until_ttin() {
    let mut world = World::booted(3, false);
    world.command(Command::Dismiss);
    world.command(Command::Dismiss);
    world.command(Command::Fewer);
    world.cooperate();
    assert!(world.workers.is_empty());
    assert!(!world.listeners_closed);
    assert_eq!(world.servers.len(), 1, "the fork server stays");
    world.pass(Duration::from_secs(60));
    assert!(world.workers.is_empty());
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.serving().len(), 3, "as many as before");
    assert_eq!(count(&world, |n| *n == Notice::Dismissed), 1);
    assert_eq!(count(&world, |n| *n == Notice::Recalled { workers: 3 }), 1);
}

#[test]
fn hup_brings_the_workers_back_and_reloads() {
    let mut world = World::booted(2, false);
    world.command(Command::Dismiss);
    world.cooperate();
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn a_reload_waits_while_there_are_no_workers() {
    let mut world = World::booted(2, false);
    world.command(Command::Reload);
    world.command(Command::Dismiss);
    world.cooperate();
    assert!(world.workers.is_empty());
    assert_eq!(count(&world, |n| matches!(n, Notice::Reloaded { .. })), 0);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn winch_during_the_boot_waits_for_its_end() {
    let mut world = World::new(2, false);
    world.command(Command::Dismiss);
    world.cooperate();
    assert_eq!(world.exit, None);
    assert_eq!(count(&world, |n| *n == Notice::Serving), 1);
    assert!(world.workers.is_empty());
}

#[test]
fn usr1_changes_nothing_but_the_logs() {
    let mut world = World::booted(1, false);
    world.command(Command::ReopenLogs);
    assert_eq!(world.serving().len(), 1);
    assert_eq!(world.notices, [Notice::LogsReopened]);
}
