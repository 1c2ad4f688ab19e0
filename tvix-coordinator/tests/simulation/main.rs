//! The state machine in a simulated world: random graphs, event orders and faults.
//!
//! Every run is determined by its seed. `TVIX_SIM_SEED=<n>` replays one and prints its events;
//! `TVIX_SIM_SEEDS=<n>` sets the number of seeds.
//!
//! Invariants (checked in `world.rs`):
//!
//! - Nothing is built twice, and nothing before its inputs are valid.
//! - No builder receives more builds than its limit.
//! - Builders that are unreachable, lie or hang for a while fail nothing, as long as another one builds.
//! - Every import is answered once, with valid paths of the requested outputs.
//! - A failure stops exactly the derivations that depend on it.
//! - When nothing is in progress any more, the session has ended, and everything that can be built
//!   exists.
//! - With checks, each valid root is rebuilt once, when its outputs and inputs are valid, and reported
//!   (`world/checks.rs`).

#![allow(clippy::unwrap_used)]

mod plan;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use plan::Plan;
use tvix_test_support::random::Random;
use world::World;

/// The situations that occurred in a run, to verify the coverage of the simulation.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    builds: u64,
    failures: u64,
    skips: u64,
    retries: u64,
    imports: u64,
    failed_imports: u64,
    dropped_imports: u64,
    cancelled: u64,
    resolved: u64,
    cut_off: u64,
    questions: u64,
    pushes: u64,
    found: u64,
    fetches: u64,
    realised: u64,
    substituter_troubles: u64,
    waits: u64,
    resumed: u64,
    checks: u64,
    check_problems: u64,
    skipped_checks: u64,
    searches: u64,
    source_references: u64,
    restarts: u64,
    hung: u64,
    unreachable: u64,
    lies: u64,
    pauses: u64,
    vanished: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.builds += other.builds;
        self.failures += other.failures;
        self.skips += other.skips;
        self.retries += other.retries;
        self.imports += other.imports;
        self.failed_imports += other.failed_imports;
        self.dropped_imports += other.dropped_imports;
        self.cancelled += other.cancelled;
        self.resolved += other.resolved;
        self.cut_off += other.cut_off;
        self.questions += other.questions;
        self.pushes += other.pushes;
        self.found += other.found;
        self.fetches += other.fetches;
        self.realised += other.realised;
        self.substituter_troubles += other.substituter_troubles;
        self.waits += other.waits;
        self.resumed += other.resumed;
        self.checks += other.checks;
        self.check_problems += other.check_problems;
        self.skipped_checks += other.skipped_checks;
        self.searches += other.searches;
        self.source_references += other.source_references;
        self.restarts += other.restarts;
        self.hung += other.hung;
        self.unreachable += other.unreachable;
        self.lies += other.lies;
        self.pauses += other.pauses;
        self.vanished += other.vanished;
    }
}

fn run(seed: u64, verbose: bool) -> Tally {
    let mut random = random(seed);
    let plan = Plan::random(&mut random);
    World::new(plan, random, verbose).run()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn ten_thousand_worlds() {
    if let Some(seed) = number("TVIX_SIM_SEED") {
        let tally = run(seed, true);
        println!("{tally:#?}");
        return;
    }
    let seeds = number("TVIX_SIM_SEEDS").unwrap_or(10_000);
    let first = number("TVIX_SIM_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let mut tally = Tally::default();
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds || failed.len() >= 5 {
                return (tally, failed);
            }
            match catch_unwind(AssertUnwindSafe(|| run(seed, false))) {
                Ok(one) => tally.add(&one),
                Err(_) => failed.push(seed),
            }
        }
    };
    let mut total = Tally::default();
    let mut failed = Vec::new();
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for handle in handles {
            let (tally, seeds) = handle.join().unwrap();
            total.add(&tally);
            failed.extend(seeds);
        }
    });
    failed.sort_unstable();
    assert!(
        failed.is_empty(),
        "failing seeds (replay with TVIX_SIM_SEED): {failed:?}"
    );
    println!("{seeds} worlds: {total:?}");
    // A simulation that never reaches a situation does not test it.
    if seeds >= 1000 {
        let Tally {
            failures,
            skips,
            retries,
            imports,
            failed_imports,
            dropped_imports,
            cancelled,
            ..
        } = total;
        let Tally {
            resolved,
            cut_off,
            questions,
            pushes,
            found,
            fetches,
            realised,
            substituter_troubles,
            waits,
            resumed,
            checks,
            check_problems,
            skipped_checks,
            searches,
            source_references,
            restarts,
            vanished,
            hung,
            unreachable,
            lies,
            pauses,
            ..
        } = total;
        for (what, count) in [
            ("failures", failures),
            ("skips", skips),
            ("retries", retries),
            ("imports", imports),
            ("failed imports", failed_imports),
            ("dropped imports", dropped_imports),
            ("cancelled sessions", cancelled),
            ("resolutions", resolved),
            ("early cut-offs", cut_off),
            ("questions", questions),
            ("pushes", pushes),
            ("found", found),
            ("fetches", fetches),
            ("floating outputs that caches knew", realised),
            ("troubles of substituters", substituter_troubles),
            ("waits for locks", waits),
            ("builds that went on", resumed),
            ("checks", checks),
            ("builds that hang", hung),
            ("unreachable builders", unreachable),
            ("builders that lie", lies),
            ("builders left alone", pauses),
            ("restarts", restarts),
            ("vanished inputs", vanished),
            ("searches at a further substituter", searches),
            ("sources that refer to others", source_references),
            ("checks with a problem", check_problems),
        ] {
            assert!(count >= seeds / 200, "too few {what}: {count}");
        }
        assert!(skipped_checks > 0, "no check whose input fails");
    }
}

#[test]
fn the_same_seed_gives_the_same_session() {
    for seed in 0..50 {
        let log = |seed| {
            let mut random = random(seed);
            let plan = Plan::random(&mut random);
            let mut world = World::new(plan, random, false);
            world.keep_log();
            world.run_logged()
        };
        assert_eq!(log(seed), log(seed), "seed {seed}");
    }
}

/// The random numbers of a world. Neighbouring seeds start far apart.
fn random(seed: u64) -> Random {
    Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
}
