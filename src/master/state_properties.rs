//! What the master promises, whatever happens and in whatever order.
//!
//! [`World::happen`] checks the promises after each event; see there. Here random
//! sequences of operators' wishes, failures and passing time are made.

use std::time::Duration;

use proptest::prelude::*;
use rsgun_core::config::{ReloadStrategy, Size};
use rsgun_core::ipc::WorkerId;

use super::event::{Command, Event, Policy};
use super::exit::Exit;
use super::scale::Bounds;
use super::state_world::{KILLED, World, import_error, policy, with_hooks};
use super::status::Condition;
use super::upgrade::world::Exec;

/// Something random; the numbers choose among what is there.
#[derive(Debug, Clone)]
enum Incident {
    Reload,
    More,
    Fewer,
    Dismiss,
    /// Some process does what it should.
    ServerReacts(usize),
    WorkerReacts(usize),
    /// The second sign of an earlier death is seen.
    LateSign,
    /// All do, until there is nothing left to do.
    Cooperation,
    ResolveFails,
    ServerDies(usize),
    WorkerDies(usize),
    WorkerFails(usize),
    WorkerDrains(usize),
    Foreigner(i32),
    /// A worker has answered enough requests.
    WorkerSpent(usize),
    /// The event loop of a worker stops, or comes round again.
    WorkerSilent(usize),
    WorkerAwake(usize),
    /// A worker grows.
    WorkerLarge(usize, u64),
    /// All workers are so busy from now on.
    Load(u64),
    /// USR2.
    Upgrade,
    /// The candidate does what it should, fails, or dies.
    CandidateReacts,
    CandidateFails,
    CandidateDies,
    /// One of those dies whom a candidate has left behind.
    OrphanDies,
    /// From now on they hang, or do not.
    OrphansHang(bool),
    /// This comes of the next exec.
    Exec(Exec),
    /// Whoever was asked for stacks answers.
    Stacks,
    Time(u64),
    /// Nobody runs for so many seconds.
    Pause(u64),
    /// Time passes as it does for a master that is not paused.
    Seconds(u64),
}

fn incident() -> impl Strategy<Value = Incident> {
    prop_oneof![
        2 => Just(Incident::Reload),
        1 => Just(Incident::More),
        1 => Just(Incident::Fewer),
        1 => Just(Incident::Dismiss),
        6 => (0_usize..8).prop_map(Incident::ServerReacts),
        12 => (0_usize..32).prop_map(Incident::WorkerReacts),
        4 => Just(Incident::LateSign),
        2 => Just(Incident::Cooperation),
        1 => Just(Incident::ResolveFails),
        1 => (0_usize..8).prop_map(Incident::ServerDies),
        3 => (0_usize..32).prop_map(Incident::WorkerDies),
        2 => (0_usize..32).prop_map(Incident::WorkerFails),
        1 => (0_usize..32).prop_map(Incident::WorkerDrains),
        1 => (5000_i32..5010).prop_map(Incident::Foreigner),
        3 => (0_usize..32).prop_map(Incident::WorkerSpent),
        2 => (0_usize..32).prop_map(Incident::WorkerSilent),
        1 => (0_usize..32).prop_map(Incident::WorkerAwake),
        1 => ((0_usize..32), (1_u64..3000)).prop_map(|(who, size)| Incident::WorkerLarge(who, size)),
        2 => (0_u64..=1000).prop_map(Incident::Load),
        2 => Just(Incident::Upgrade),
        6 => Just(Incident::CandidateReacts),
        1 => Just(Incident::CandidateFails),
        1 => Just(Incident::CandidateDies),
        1 => Just(Incident::OrphanDies),
        1 => any::<bool>().prop_map(Incident::OrphansHang),
        1 => Just(Incident::Exec(Exec::Fails)),
        1 => Just(Incident::Exec(Exec::IsTakenBack)),
        3 => Just(Incident::Stacks),
        3 => (1_u64..40_000).prop_map(Incident::Time),
        1 => (1_u64..40).prop_map(Incident::Pause),
        3 => (1_u64..15).prop_map(Incident::Seconds),
    ]
}

/// What does not give anybody more time.
fn incident_of_a_stop() -> impl Strategy<Value = Incident> {
    prop_oneof![
        2 => Just(Incident::Reload),
        2 => Just(Incident::Upgrade),
        1 => Just(Incident::More),
        1 => Just(Incident::Dismiss),
        3 => (0_usize..8).prop_map(Incident::ServerReacts),
        4 => (0_usize..32).prop_map(Incident::WorkerReacts),
        1 => (0_usize..8).prop_map(Incident::ServerDies),
        3 => (0_usize..32).prop_map(Incident::WorkerDies),
        2 => (0_usize..32).prop_map(Incident::WorkerFails),
        3 => (0_usize..32).prop_map(Incident::WorkerSilent),
        2 => Just(Incident::CandidateReacts),
        1 => Just(Incident::CandidateDies),
        2 => Just(Incident::LateSign),
    ]
}

/// Settings of every kind that decisions depend on.
fn settings() -> impl Strategy<Value = Policy> {
    let strategy = prop_oneof![
        Just(ReloadStrategy::Rolling),
        Just(ReloadStrategy::Parallel)
    ];
    (
        1_u32..5,
        any::<bool>(),
        strategy,
        0_u32..3,
        0_u64..3,
        0_u64..2,
        prop_oneof![Just(None), (1_u32..3, 0_u32..4).prop_map(Some)],
        any::<bool>(),
    )
        .prop_map(
            |(workers, preload, strategy, missing, probation, delay, bounds, hooks)| {
                let policy = Policy {
                    bounds: bounds.map(|(min, extra)| Bounds {
                        min,
                        max: min + extra,
                    }),
                    reload_strategy: strategy,
                    reload_max_unavailable: missing,
                    reload_probation: Duration::from_secs(probation),
                    drain_delay: Duration::from_secs(delay * 20),
                    ..policy(workers, preload)
                };
                if hooks { with_hooks(policy) } else { policy }
            },
        )
}

fn pick<T: Copy>(list: &[T], number: usize) -> Option<T> {
    list.get(number % list.len().max(1)).copied()
}

#[expect(clippy::too_many_lines, reason = "one arm for each incident")]
fn apply(world: &mut World, incident: &Incident) {
    if world.exit.is_some() {
        return;
    }
    let servers: Vec<u32> = world.servers.keys().copied().collect();
    let workers: Vec<WorkerId> = world.workers.keys().copied().collect();
    let greeted = |world: &World, id: &WorkerId| world.workers[id].greeted;
    match *incident {
        Incident::Reload => world.command(Command::Reload),
        Incident::More => world.command(Command::More),
        Incident::Fewer => world.command(Command::Fewer),
        Incident::Dismiss => world.command(Command::Dismiss),
        Incident::ServerReacts(number) => {
            if let Some(number) = pick(&servers, number) {
                world.server_reacts(number);
            } else {
                world.one_reaction();
            }
        }
        Incident::WorkerReacts(number) => {
            if let Some(id) = pick(&workers, number) {
                world.worker_reacts(id);
            } else {
                world.one_reaction();
            }
        }
        Incident::LateSign => world.late_sign(),
        Incident::Cooperation => world.cooperate(),
        Incident::ResolveFails => {
            if let Some(generation) = world.resolving.take() {
                let reason = "no such key".to_owned();
                world.happen(Event::ResolveFailed { generation, reason });
            }
        }
        Incident::ServerDies(number) => {
            if let Some(number) = pick(&servers, number) {
                world.server_dies(number, KILLED);
            }
        }
        Incident::WorkerDies(number) => {
            if let Some(id) = pick(&workers, number).filter(|id| greeted(world, id)) {
                world.worker_dies(id, Exit::Code(7));
            }
        }
        Incident::WorkerFails(number) => {
            if let Some(id) =
                pick(&workers, number).filter(|id| greeted(world, id) && !world.workers[id].ready)
            {
                world.worker_fails(id, import_error());
            }
        }
        Incident::WorkerDrains(number) => {
            if let Some(id) = pick(&workers, number)
                .filter(|id| world.workers[id].ready && !world.workers[id].draining)
            {
                world.worker_draining(id);
            }
        }
        Incident::Foreigner(pid) => {
            world.happen(Event::Exited {
                pid,
                exit: Exit::Code(3),
            });
        }
        Incident::WorkerSpent(number) => {
            if let Some(id) = pick(&workers, number).filter(|id| world.workers[id].ready) {
                world.worker_spent(id);
            }
        }
        Incident::WorkerSilent(number) => {
            if let Some(id) = pick(&workers, number) {
                let now = world.now;
                if let Some(worker) = world.workers.get_mut(&id) {
                    worker.silent_since.get_or_insert(now);
                }
            }
        }
        Incident::WorkerAwake(number) => {
            if let Some(id) = pick(&workers, number)
                && let Some(worker) = world.workers.get_mut(&id)
            {
                worker.silent_since = None;
            }
        }
        Incident::WorkerLarge(number, bytes) => {
            if let Some(id) = pick(&workers, number)
                && let Some(worker) = world.workers.get_mut(&id)
            {
                worker.resident = Size::from_bytes(bytes);
            }
        }
        Incident::Load(load) => world.load = load,
        Incident::Upgrade => world.command(Command::Upgrade),
        Incident::CandidateReacts => {
            world.candidate_reacts();
        }
        Incident::CandidateFails => world.candidate_fails(),
        Incident::CandidateDies => world.candidate_dies(KILLED),
        Incident::OrphanDies => world.orphan_dies(KILLED),
        Incident::OrphansHang(hang) => world.orphans_hang = hang,
        Incident::Exec(exec) => world.next_exec = exec,
        Incident::Stacks => world.answer_stacks(Some("Thread 1")),
        Incident::Seconds(count) => world.seconds(count),
        Incident::Time(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
        Incident::Pause(seconds) => world.wake_after(Duration::from_secs(seconds)),
    }
}

/// Time passes and everybody does what they should, for as long as any back-off lasts.
fn calm_down(world: &mut World) {
    for worker in world.workers.values_mut() {
        worker.silent_since = None;
        worker.resident = Size::from_bytes(100);
    }
    for _ in 0..200 {
        if world.exit.is_some() {
            return;
        }
        world.cooperate();
        if world.exit.is_none() {
            world.pass(Duration::from_secs(1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_server_that_has_served_survives_everything(
        settings in settings(),
        late: bool,
        incidents in prop::collection::vec(incident(), 0..120),
    ) {
        let mut world = World::booted_of(settings);
        world.signs_come_late = late;
        for incident in &incidents {
            apply(&mut world, incident);
        }
        prop_assert_eq!(world.exit, None);
        calm_down(&mut world);
        // Also by a wish that an upgrade has kept.
        if world.state.dismissed {
            world.command(Command::More);
            calm_down(&mut world);
        }
        prop_assert_eq!(world.exit, None);
        prop_assert_eq!(world.serving().len(), world.state.target() as usize);
        prop_assert!(world.state.reload.is_none());
        prop_assert_eq!(world.shown, Condition::Sound);
        prop_assert!(world.state.upgrade.is_none() && world.candidate.is_none());
        prop_assert!(world.orphans.is_empty());
        prop_assert_eq!(world.servers.len(), 1);
        prop_assert_eq!(world.workers.len(), world.serving().len());
    }

    #[test]
    fn with_good_code_no_serving_worker_is_missed(
        settings in settings(),
        incidents in prop::collection::vec(
            prop_oneof![
                2 => Just(Incident::Reload),
                2 => Just(Incident::Upgrade),
                8 => Just(Incident::CandidateReacts),
                1 => Just(Incident::CandidateFails),
                1 => Just(Incident::CandidateDies),
                1 => Just(Incident::OrphanDies),
                1 => any::<bool>().prop_map(Incident::OrphansHang),
                1 => Just(Incident::Exec(Exec::Fails)),
        1 => Just(Incident::Exec(Exec::IsTakenBack)),
                6 => (0_usize..8).prop_map(Incident::ServerReacts),
                12 => (0_usize..32).prop_map(Incident::WorkerReacts),
                3 => (0_usize..32).prop_map(Incident::WorkerSpent),
                1 => (0_usize..32, 1_u64..1999)
                    .prop_map(|(who, size)| Incident::WorkerLarge(who, size)),
                1 => (0_u64..=1000).prop_map(Incident::Load),
                1 => (1_u64..5_000).prop_map(Incident::Time),
                1 => (1_u64..15).prop_map(Incident::Seconds),
            ],
            0..200,
        ),
    ) {
        let missing = match settings.reload_strategy {
            ReloadStrategy::Rolling => settings.reload_max_unavailable,
            ReloadStrategy::Parallel => 0,
        };
        // The first worker of a reload is there beside the others before any may be missing.
        let workers = settings.bounds.map_or(settings.workers, |bounds| bounds.min);
        let promised = workers.saturating_sub(missing).max(1) as usize;
        let mut world = World::booted_of(settings);
        for incident in &incidents {
            apply(&mut world, incident);
            // Nothing but the boot timeout may take a worker out of service, and
            // that one hits only those that never were in it.
            prop_assert!(world.serving().len() >= promised);
        }
    }

    #[test]
    fn a_second_int_always_ends(
        settings in settings(),
        booted: bool,
        incidents in prop::collection::vec(incident(), 0..60),
        between in prop::collection::vec(incident(), 0..10),
    ) {
        let mut world =
            if booted { World::booted_of(settings) } else { World::of(settings) };
        world.signs_come_late = true;
        for incident in &incidents {
            apply(&mut world, incident);
        }
        for pause in [&between, &Vec::new()] {
            if world.exit.is_none() {
                world.command(Command::StopQuickly);
            }
            for incident in pause {
                apply(&mut world, incident);
            }
        }
        // Nobody cooperates: what was killed is not even reaped.
        for _ in 0..10 {
            if world.exit.is_none() {
                world.pass(Duration::from_secs(2));
            }
        }
        prop_assert!(world.exit.is_some());
    }

    #[test]
    fn a_graceful_stop_ends_in_time_whoever_hangs(
        settings in settings(),
        incidents in prop::collection::vec(incident(), 0..60),
        meanwhile in prop::collection::vec((0_u64..6, incident_of_a_stop()), 0..30),
    ) {
        let mut world = World::booted_of(settings);
        world.signs_come_late = true;
        for incident in &incidents {
            apply(&mut world, incident);
        }
        world.command(Command::Stop);
        // In the delay, and while everybody drains.
        for (seconds, incident) in &meanwhile {
            apply(&mut world, incident);
            if world.exit.is_none() {
                world.pass(Duration::from_secs(*seconds));
            }
        }
        // The delay, the graceful time-out, its margin, the time that stacks and SIGKILL may
        // take, and the last hook, whose fork server must be killed as well.
        for _ in 0..80 {
            if world.exit.is_none() {
                world.pass(Duration::from_secs(1));
            }
        }
        prop_assert_eq!(world.exit, Some(0));
    }
}
