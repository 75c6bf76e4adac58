//! The state machine against the model world: hundreds of small histories, judged by the oracle.

use std::time::Duration;

use downbeat_core::{Limits, cell::Mode};
use downbeat_sim::{Faults, Plan, Simulation};
use downbeat_world::{RelayerConfig, WorldConfig, random::Random, rollup::Call};

/// A world in which a minute holds many blocks.
fn small_world(seed: u64) -> WorldConfig {
    let mut world = WorldConfig {
        seed,
        block_time: Duration::from_millis(700),
        celestia_block_time: Duration::from_millis(1_900),
        da_delay: Duration::from_secs(3),
        ..WorldConfig::default()
    };
    world.session.look_ahead = 30;
    world
}

fn plan(seed: u64, mode: Mode) -> Plan {
    Plan {
        seed,
        world: small_world(seed),
        limits: Limits {
            fetch_deadline: Duration::from_secs(3),
            execution_deadline: Duration::from_secs(4),
            backoff_last: Duration::from_secs(1),
            session_delay_last: Duration::from_secs(2),
            ..Limits::default()
        },
        mode,
        sessions: Vec::new(),
        faults: Faults::default(),
        faulty_for: Duration::from_secs(0),
        healthy_for: Duration::from_secs(90),
    }
}

/// Firm (or, without firm, soft) has come this far on every node.
fn reached(simulation: &Simulation, number: u64, mode: Mode) -> bool {
    simulation.world.rollups.values().all(|node| {
        let head = if mode.follows_firm() { node.firm() } else { node.soft() };
        head.0 >= number
    })
}

fn run(plan: Plan, blocks: u64) -> Simulation {
    let (seed, mode) = (plan.seed, plan.mode);
    let mut simulation = Simulation::new(plan);
    if let Err(violation) = simulation.run(|simulation| reached(simulation, blocks, mode)) {
        panic!("seed {seed} {mode:?}: {}: {}", violation.invariant, violation.detail);
    }
    simulation
}

#[test]
fn each_mode_follows_a_healthy_world() {
    for mode in [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm] {
        run(plan(1, mode), 60);
    }
}

#[test]
fn blobs_may_come_split_shuffled_late_and_twice() {
    for seed in 0..20 {
        let mut plan = plan(seed, Mode::SoftAndFirm);
        plan.world.relayer = RelayerConfig {
            late_blocks: 4,
            shuffle: true,
            duplicate_percent: 30,
            blocks_per_submission: 3,
            ..RelayerConfig::default()
        };
        run(plan, 40);
    }
}

/// Any mix of faults for a while, then health.
fn swarm(seed: u64) -> Plan {
    let mut random = Random::new(seed, "swarm");
    let mode = [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm, Mode::SoftAndFirm]
        [usize::try_from(random.below(4)).unwrap()];
    let mut plan = plan(seed, mode);
    // Each kind is left out of half of the runs, so that rare combinations are dense in some.
    let mut pick = |most: u64| u8::try_from(if random.chance(50) { 0 } else { random.within(1, most) }).unwrap();
    plan.faults = Faults {
        delay_ms: u64::from(pick(200)) * 10 + 1,
        refused: pick(30),
        lost: pick(10),
        reply_lost: pick(30),
        repeated: pick(50),
        conductor_restarts: pick(20),
        node_restarts: pick(20),
        revocations: pick(20),
        hostile_posts: pick(100),
    };
    plan.faulty_for = Duration::from_secs(random.within(5, 60));
    plan.healthy_for = Duration::from_secs(120);
    plan.world.rollups = u32::try_from(random.within(1, 3)).unwrap();
    if random.chance(50) {
        plan.world.relayer.late_blocks = random.within(1, 5);
        plan.world.relayer.shuffle = random.chance(50);
        plan.world.relayer.duplicate_percent = 20;
    }
    if random.chance(50) {
        plan.limits.soft_firm_spread = random.within(1, 20);
    }
    if random.chance(40) {
        plan.sessions = (0..random.within(1, 5)).map(|_| random.within(1, 8)).collect();
    }
    if random.chance(30) {
        plan.limits.candidates_per_height = usize::try_from(random.within(1, 3)).unwrap();
        plan.limits.firm_buffer_bytes = usize::try_from(random.within(1, 20_000)).unwrap();
        plan.limits.soft_buffer_bytes = usize::try_from(random.within(1, 5_000)).unwrap();
        plan.limits.headers_in_flight = usize::try_from(random.within(1, 3)).unwrap();
        plan.limits.trusted_headers = usize::try_from(random.within(1, 10)).unwrap();
        plan.limits.celestia_in_flight = usize::try_from(random.within(1, 3)).unwrap();
    }
    plan
}

#[test]
fn short_sessions_follow_one_another_in_each_mode() {
    for mode in [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm] {
        let mut plan = plan(3, mode);
        plan.sessions = vec![1, 2, 3, 1, 10];
        let simulation = run(plan, 40);
        let opened = simulation
            .world
            .rollups
            .values()
            .map(|node| node.trace().filter(|call| matches!(call, Call::Opened(Ok(_)))).count());
        assert_eq!(opened.collect::<Vec<_>>(), [6], "{mode:?}: one session after the other, and none more");
    }
}

#[test]
fn no_mix_of_faults_breaks_a_promise() {
    let (first, count) = match std::env::var("DOWNBEAT_SEEDS") {
        Ok(range) => {
            let (first, count) = range.split_once('+').expect("DOWNBEAT_SEEDS is FIRST+COUNT");
            (first.parse().unwrap(), count.parse().unwrap())
        }
        Err(_) => (0, 60),
    };
    for seed in first..first + count {
        let plan = swarm(seed);
        let faulty = plan.faulty_for.as_secs();
        run(plan, faulty + 20);
    }
}
