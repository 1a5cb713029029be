//! The number of workers follows the load, and what else moves or holds it.

use std::time::Duration;

use super::event::{Command, Policy};
use super::notice::Notice;
use super::scale::Bounds;
use super::state_world::{KILLED, World, count, policy};

fn world(workers: u32, min: u32, max: u32) -> World {
    World::booted_of(Policy {
        bounds: Some(Bounds { min, max }),
        ..policy(workers, false)
    })
}

/// Lets seconds pass in which every process does what it should.
fn live(world: &mut World, seconds: u64) {
    for _ in 0..seconds {
        world.seconds(1);
        world.cooperate();
    }
}

#[test]
fn workers_come_with_the_load_and_go_without_it() {
    let mut world = world(1, 1, 3);
    world.load = 900;
    live(&mut world, 30);
    assert_eq!(world.serving().len(), 3);
    world.load = 0;
    live(&mut world, 20);
    assert_eq!(world.serving().len(), 3, "they go slowly");
    live(&mut world, 90);
    assert_eq!(world.serving().len(), 1);
    let changes = count(&world, |notice| matches!(notice, Notice::Scaled { .. }));
    assert_eq!(changes, 4, "one at a time");
}

#[test]
fn the_number_begins_within_its_bounds() {
    assert_eq!(world(1, 2, 4).serving().len(), 2);
    assert_eq!(world(8, 2, 4).serving().len(), 4);
}

#[test]
fn nothing_changes_while_a_worker_is_missing() {
    let mut world = world(2, 2, 4);
    world.load = 1000;
    world.seconds(2);
    let victim = world.serving()[0];
    world.worker_dies(victim, KILLED);
    // Its replacement takes its time.
    world.seconds(10);
    assert_eq!(world.state.target(), 2);
    world.cooperate();
    live(&mut world, 2);
    assert_eq!(world.state.target(), 2, "the time counts anew");
    live(&mut world, 5);
    assert_eq!(world.state.target(), 3);
}

#[test]
fn a_reload_keeps_the_number_within_the_new_bounds() {
    let mut world = world(1, 1, 4);
    world.load = 1000;
    live(&mut world, 40);
    assert_eq!(world.serving().len(), 4);
    world.load = 600;
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2; 4]);
    world.policy.bounds = Some(Bounds { min: 1, max: 2 });
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [3; 2]);
    world.policy.bounds = None;
    world.policy.workers = 3;
    world.command(Command::Reload);
    world.cooperate();
    assert_eq!(world.generations_serving(), [4; 3]);
}

#[test]
fn nothing_changes_during_a_reload() {
    let mut world = world(2, 2, 4);
    world.load = 1000;
    world.command(Command::Reload);
    world.seconds(10);
    assert_eq!(world.state.target(), 2);
    world.cooperate();
    assert_eq!(world.generations_serving(), [2, 2]);
}

#[test]
fn ttin_and_ttou_move_the_number_within_the_bounds() {
    let mut world = world(2, 1, 3);
    // Neither busy enough to grow nor idle enough to shrink.
    world.load = 600;
    world.command(Command::More);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.serving().len(), 3, "the upper bound");
    for _ in 0..5 {
        world.command(Command::Fewer);
    }
    world.cooperate();
    assert_eq!(world.serving().len(), 1, "the lower bound");
    world.command(Command::More);
    live(&mut world, 100);
    assert_eq!(world.serving().len(), 2, "it stays there");
}

#[test]
fn winch_counts_more_than_the_load() {
    let mut world = world(1, 1, 3);
    world.load = 1000;
    world.command(Command::Dismiss);
    live(&mut world, 20);
    assert_eq!(world.serving().len(), 0);
    world.command(Command::More);
    world.cooperate();
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn a_stop_with_a_delay_changes_nothing() {
    let mut world = World::booted_of(Policy {
        bounds: Some(Bounds { min: 1, max: 3 }),
        drain_delay: Duration::from_secs(60),
        ..policy(1, false)
    });
    world.load = 1000;
    world.command(Command::Stop);
    live(&mut world, 20);
    assert_eq!(world.state.target(), 1);
}
