//! The builders: which have room, which is left alone after failures, and which is the best for a
//! derivation.
//!
//! A builder costs the time that a build takes on it (the estimate over its speed), more if it is busy,
//! and the time to send missing inputs. The cheapest one with room builds. Where things are is known from
//! the builds of this session.
//!
//! A builder that is unreachable, or that fails several times in a row, is left alone for a pause, as long
//! as another one can build. Then it gets one build; if that fails too, the next pause is twice as long.
//! Where all are left alone, each gets one build at a time. After several pauses without a success,
//! derivations that only unreachable builders could build fail at once.

use std::sync::Arc;
use std::time::Duration;

use tvix_build_api::{BuilderErrorKind, BuilderProfile, Requirements};

use super::graph::NodeId;
use super::sources::SourceId;
use crate::component_error::{ComponentError, ComponentErrorKind, StoreErrorKind};

/// Builders, as bits.
pub(super) type BuilderMask = u64;

/// Failures in a row after which a builder is left alone. An unreachable one is at once.
const FAILURES: u32 = 3;

/// The first pause of a builder that is left alone, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Pauses in a row after which nothing waits for an unreachable builder.
const PAUSES: u32 = 4;

/// KiB that are sent to a builder in a millisecond.
const KIB_PER_MILLISECOND: u64 = 32;

/// Milliseconds that a path of any size costs.
const PER_PATH: u64 = 2;

/// Size in KiB of paths of unknown size.
const UNKNOWN_SIZE: u32 = 1024;

/// Inputs that are considered. A derivation with more costs what its build costs.
const CONSIDERED: usize = 256;

/// Where an output or a source is, and how large it is.
#[derive(Debug, Clone, Copy)]
struct Place {
    builders: BuilderMask,
    /// Size in KiB.
    size: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            builders: 0,
            size: UNKNOWN_SIZE,
        }
    }
}

/// The failures of a builder since its last success.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    pauses: u32,
    /// It is left alone until then; after that it gets one build.
    until: Option<Duration>,
    /// Whether it has that build.
    probed: bool,
    last: Option<ComponentError>,
}

#[derive(Debug)]
struct Member {
    profile: BuilderProfile,
    name: Arc<str>,
    running: usize,
    health: Health,
}

/// A builder is left alone.
#[derive(Debug)]
pub(super) struct Paused {
    pub(super) pause: Duration,
    /// Whether nothing waits for it any more.
    pub(super) given_up: bool,
}

#[derive(Debug)]
pub(super) struct Pool {
    members: Vec<Member>,
    max_jobs: usize,
    running: usize,
    /// Builders that inputs need not be sent to.
    local: BuilderMask,
    /// Where outputs and sources are; empty if it makes no difference.
    outputs: Vec<Place>,
    sources: Vec<Place>,
}

/// The inputs of a derivation that is to be built.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) outputs: Vec<NodeId>,
    pub(super) sources: Vec<SourceId>,
    /// The estimated time on an ordinary machine, in milliseconds.
    pub(super) estimate: u32,
}

impl Pool {
    pub(super) fn new(profiles: Vec<BuilderProfile>, max_jobs: Option<usize>) -> Self {
        let members: Vec<_> = profiles
            .into_iter()
            .map(|profile| Member {
                name: profile.name.as_str().into(),
                profile,
                running: 0,
                health: Health::default(),
            })
            .collect();
        let local = mask_of(&members, |member| !member.profile.remote);
        Self {
            members,
            max_jobs: max_jobs.unwrap_or(usize::MAX).max(1),
            running: 0,
            local,
            outputs: Vec::new(),
            sources: Vec::new(),
        }
    }

    pub(super) fn name(&self, builder: usize) -> Arc<str> {
        self.members[builder].name.clone()
    }

    /// Whether the choice depends on where inputs are.
    pub(super) fn cares_for_places(&self) -> bool {
        self.members.len() > 1 && self.local != mask_of(&self.members, |_| true)
    }

    /// The builders that meet the requirements of a derivation. If it prefers to be built where its
    /// inputs are, only such builders, if there are any.
    pub(super) fn supporting(&self, requirements: &Requirements) -> BuilderMask {
        let able = mask_of(&self.members, |member| member.profile.meets(requirements));
        match able & self.local {
            local if requirements.prefers_local && local != 0 => local,
            _ => able,
        }
    }

    /// The systems and features that builders lack, as a message.
    pub(super) fn why_unsuitable(&self, requirements: &Requirements) -> String {
        let reasons = self.members.iter().map(|member| {
            let lacks = member.profile.unmet(requirements);
            lacks.unwrap_or_else(|| format!("builder '{}' has refused it", member.name))
        });
        let reasons: Vec<String> = reasons.collect();
        match reasons.is_empty() {
            true => "there are no builders: increase --max-jobs, or name remote machines with \
                     --builders"
                .to_owned(),
            false => reasons.join("; "),
        }
    }

    /// The builders that may get a build now.
    fn open(&self, suitable: BuilderMask, now: Duration) -> BuilderMask {
        if self.running >= self.max_jobs {
            return 0;
        }
        let fit = mask_of(&self.members, |member| !member.is_left_alone(now)) & suitable;
        let room = mask_of(&self.members, Member::has_room) & suitable;
        match fit {
            0 => room & mask_of(&self.members, |member| member.running == 0),
            fit => fit & room,
        }
    }

    /// Whether any builder has room for a build.
    pub(super) fn has_room(&self, suitable: BuilderMask, now: Duration) -> bool {
        self.open(suitable, now) != 0
    }

    /// Takes a slot of the best builder in `suitable`, if one has room: one that has not tried yet, if
    /// there is one. `needs` are asked for if there is a choice.
    pub(super) fn assign(
        &mut self,
        suitable: BuilderMask,
        tried: BuilderMask,
        now: Duration,
        needs: impl FnOnce() -> Needs,
    ) -> Option<usize> {
        let can = self.open(suitable, now);
        let can = match can & !tried {
            0 => can,
            untried => untried,
        };
        let builder = match can {
            0 => return None,
            one if one.is_power_of_two() => one.trailing_zeros() as usize,
            _ => self.cheapest(can, &needs())?,
        };
        let member = &mut self.members[builder];
        member.running += 1;
        member.health.probed = member.health.until.is_some();
        self.running += 1;
        Some(builder)
    }

    /// The cheapest builder, the first among equals.
    fn cheapest(&self, can: BuilderMask, needs: &Needs) -> Option<usize> {
        let outputs = needs
            .outputs
            .iter()
            .map(|id| self.outputs.get(id.0 as usize));
        let sources = needs
            .sources
            .iter()
            .map(|id| self.sources.get(id.0 as usize));
        let places = outputs.chain(sources).take(CONSIDERED);
        let places = places.map(|place| place.copied().unwrap_or_default());
        let places: Vec<Place> = places.collect();
        let able = (0..self.members.len()).filter(|index| can >> index & 1 == 1);
        able.min_by_key(|index| {
            let Member {
                profile, running, ..
            } = &self.members[*index];
            let build = u64::from(needs.estimate) * 1000 / u64::from(profile.speed);
            let busy = build * *running as u64 / (2 * profile.max_jobs as u64);
            let lacks = places
                .iter()
                .filter(|place| profile.remote && place.builders >> *index & 1 == 0);
            let send = lacks.map(|place| PER_PATH + u64::from(place.size) / KIB_PER_MILLISECOND);
            (build + busy + send.sum::<u64>(), *index)
        })
    }

    /// Takes note that a builder has, or will have, the inputs of a build.
    pub(super) fn sent(&mut self, builder: usize, needs: &Needs) {
        for id in &needs.outputs {
            place(&mut self.outputs, id.0).builders |= 1 << builder;
        }
        for id in &needs.sources {
            place(&mut self.sources, id.0).builders |= 1 << builder;
        }
    }

    /// Takes note that a builder has the outputs of a derivation, with a size in bytes.
    pub(super) fn made(&mut self, builder: usize, id: NodeId, size: Option<u64>) {
        let place = place(&mut self.outputs, id.0);
        place.builders |= 1 << builder;
        if let Some(size) = size {
            place.size = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
        }
    }

    /// Takes a slot of a builder, if there is one.
    pub(super) fn occupy(&mut self, builder: usize) -> bool {
        let member = &mut self.members[builder];
        let free = self.running < self.max_jobs && member.running < member.profile.max_jobs;
        if free {
            member.running += 1;
            self.running += 1;
        }
        free
    }

    /// A build is over, or waits.
    pub(super) fn release(&mut self, builder: usize) {
        self.members[builder].running -= 1;
        self.running -= 1;
    }

    /// A build of the builder ended as it should.
    pub(super) fn succeeded(&mut self, builder: usize) {
        let health = &mut self.members[builder].health;
        if health.failures > 0 {
            *health = Health::default();
        }
    }

    /// A build ended without telling anything of its builder.
    pub(super) fn abandoned(&mut self, builder: usize) {
        self.members[builder].health.probed = false;
    }

    /// A builder has failed. Says if it is left alone from now on.
    pub(super) fn failed(
        &mut self,
        builder: usize,
        error: &ComponentError,
        now: Duration,
    ) -> Option<Paused> {
        let (immediate, counts) = match error.kind {
            ComponentErrorKind::Builder(BuilderErrorKind::Unreachable) => (true, true),
            ComponentErrorKind::Builder(BuilderErrorKind::Unsupported) => (false, false),
            ComponentErrorKind::Builder(_) => (false, true),
            // It delivered other contents than it said.
            ComponentErrorKind::Store(StoreErrorKind::Corrupt) => (false, true),
            ComponentErrorKind::Store(_) | ComponentErrorKind::Coordinator => (false, false),
        };
        let alone = self.members.len() == 1;
        let health = &mut self.members[builder].health;
        let probed = std::mem::replace(&mut health.probed, false);
        // Builds that were under way when it was left alone say nothing new.
        if alone || !counts || (health.until.is_some() && !probed) {
            return None;
        }
        health.failures += 1;
        health.last = Some(error.clone());
        if !immediate && !probed && health.failures < FAILURES {
            return None;
        }
        let factor = 1_u32.checked_shl(health.pauses).unwrap_or(u32::MAX);
        let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
        health.pauses = health.pauses.saturating_add(1);
        health.until = Some(now + pause);
        Some(Paused {
            pause,
            given_up: health.pauses >= PAUSES,
        })
    }

    /// Whether one of these builders is not left alone.
    pub(super) fn any_fit(&self, suitable: BuilderMask) -> bool {
        suitable & mask_of(&self.members, |member| member.health.until.is_none()) != 0
    }

    /// The last error of one of these builders, if all are unreachable and not to be waited for.
    pub(super) fn given_up(&self, suitable: BuilderMask, now: Duration) -> Option<&ComponentError> {
        let mut last = None;
        for (index, member) in self.members.iter().enumerate() {
            if suitable >> index & 1 == 0 {
                continue;
            }
            let health = &member.health;
            let error = health.last.as_ref().filter(|it| is_unreachable(it))?;
            if health.pauses < PAUSES || !member.is_left_alone(now) || member.running > 0 {
                return None;
            }
            last = last.or(Some(error));
        }
        last
    }

    /// When the first of these builders is not left alone any more.
    pub(super) fn resumes(&self, suitable: BuilderMask, now: Duration) -> Option<Duration> {
        let members = self.members.iter().enumerate();
        let paused = members.filter(|(index, _)| suitable >> index & 1 == 1);
        let until = paused.filter_map(|(_, member)| member.health.until);
        until.filter(|until| *until > now).min()
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.running < self.profile.max_jobs
    }

    fn is_left_alone(&self, now: Duration) -> bool {
        let health = &self.health;
        health
            .until
            .is_some_and(|until| now < until || health.probed)
    }
}

fn is_unreachable(error: &ComponentError) -> bool {
    error.kind == ComponentErrorKind::Builder(BuilderErrorKind::Unreachable)
}

fn mask_of(members: &[Member], which: impl Fn(&Member) -> bool) -> BuilderMask {
    let members = members.iter().enumerate();
    members.fold(0, |mask, (index, member)| {
        mask | u64::from(which(member)) << index
    })
}

fn place(places: &mut Vec<Place>, index: u32) -> &mut Place {
    let index = index as usize;
    if places.len() <= index {
        places.resize_with(index + 1, Place::default);
    }
    &mut places[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str, jobs: usize) -> BuilderProfile {
        BuilderProfile::new(name, "x86_64-linux", jobs)
    }

    fn pool(profiles: impl IntoIterator<Item = BuilderProfile>) -> Pool {
        Pool::new(profiles.into_iter().collect(), None)
    }

    fn needs(outputs: &[u32]) -> Needs {
        Needs {
            outputs: outputs.iter().map(|id| NodeId(*id)).collect(),
            sources: Vec::new(),
            estimate: 1000,
        }
    }

    const START: Duration = Duration::ZERO;

    #[test]
    fn where_the_inputs_are() {
        let mut pool = pool([
            profile("a", 2).with_remote(true),
            profile("b", 2).with_remote(true),
        ]);
        pool.made(1, NodeId(7), Some(10 << 20));
        assert_eq!(pool.assign(3, 0, START, || needs(&[7])), Some(1));
        // Sending it takes longer than sharing the machine.
        pool.made(1, NodeId(7), Some(1 << 30));
        assert_eq!(pool.assign(3, 0, START, || needs(&[7])), Some(1));
        assert_eq!(pool.assign(3, 0, START, || needs(&[7])), Some(0));
        pool.release(0);
        pool.release(1);
        // With a small one it does not.
        pool.made(1, NodeId(7), Some(10));
        assert_eq!(pool.assign(3, 0, START, || needs(&[7])), Some(0));
    }

    #[test]
    fn the_fast_and_the_local() {
        let mut pool = pool([
            profile("slow", 2).with_speed_factor(0.5),
            profile("fast", 2).with_speed_factor(4.0),
            profile("here", 2),
        ]);
        let next = |pool: &mut Pool| pool.assign(7, 0, START, || needs(&[]));
        let order: Vec<_> = (0..7).map(|_| next(&mut pool)).collect();
        let expected = [Some(1), Some(1), Some(2), Some(2), Some(0), Some(0), None];
        assert_eq!(order, expected);
        let far = profile("far", 1).with_remote(true).with_speed_factor(2.0);
        let pool = Pool::new(vec![far, profile("here", 1)], None);
        let mut requirements = Requirements::of(&derivation());
        assert_eq!(pool.supporting(&requirements), 3);
        requirements.prefers_local = true;
        assert_eq!(pool.supporting(&requirements), 2);
    }

    fn derivation() -> nix_compat::derivation::Derivation {
        let builder = nix_compat::derivation::DerivationBuilder::new("x", "x86_64-linux", "/x");
        let made = builder.instantiate(&nix_compat::store_path::StoreDir::default());
        (*made.expect("it is valid").derivation).clone()
    }

    fn lost(kind: BuilderErrorKind) -> ComponentError {
        ComponentError::new(ComponentErrorKind::Builder(kind), "lost").retryable(true)
    }

    #[test]
    fn pauses_double_and_end_with_a_success() {
        let mut pool = pool([profile("a", 4), profile("b", 4)]);
        let next = |pool: &mut Pool, now| pool.assign(3, 2, now, || needs(&[]));
        let lost = lost(BuilderErrorKind::Failed);
        assert!(pool.failed(0, &lost, START).is_none());
        assert!(pool.failed(0, &lost, START).is_none());
        let paused = pool.failed(0, &lost, START).expect("three in a row");
        assert_eq!(paused.pause, FIRST_PAUSE);
        // Those that were under way change nothing.
        assert!(pool.failed(0, &lost, START).is_none());
        assert_eq!(next(&mut pool, START), Some(1));
        assert_eq!(pool.resumes(3, START), Some(FIRST_PAUSE));
        let mut now = FIRST_PAUSE;
        for round in 1..8_u32 {
            // One build at a time, which fails.
            assert_eq!(next(&mut pool, now), Some(0));
            assert_eq!(next(&mut pool, now), Some(1));
            pool.release(0);
            pool.release(1);
            let paused = pool.failed(0, &lost, now).expect("it was probed");
            assert_eq!(paused.pause, FIRST_PAUSE * (1 << round));
            assert!(pool.given_up(1, now).is_none());
            now += paused.pause;
        }
        assert_eq!(next(&mut pool, now), Some(0));
        pool.succeeded(0);
        assert_eq!(next(&mut pool, now), Some(0));
        assert_eq!(pool.resumes(3, START), None);
    }

    #[test]
    fn without_another_one_it_is_tried_and_given_up() {
        let mut pool = pool([profile("a", 4), profile("b", 4)]);
        let lost = lost(BuilderErrorKind::Unreachable);
        for round in 1..=PAUSES {
            assert!(pool.given_up(1, START).is_none());
            assert_eq!(pool.assign(1, 0, START, || needs(&[])), Some(0));
            // It has as much room as it likes as long as nothing has failed.
            if round > 1 {
                assert_eq!(pool.assign(1, 0, START, || needs(&[])), None);
            }
            pool.release(0);
            let paused = pool.failed(0, &lost, START).expect("at once");
            assert_eq!(paused.given_up, round == PAUSES);
        }
        assert!(pool.given_up(1, START).is_some());
        assert!(pool.given_up(3, START).is_none());
        assert!(pool.given_up(1, FIRST_PAUSE * 8).is_none());
    }

    #[test]
    fn stores_and_missing_features_are_not_the_builders_fault() {
        let mut pool = pool([profile("a", 4), profile("b", 4)]);
        for kind in [
            ComponentErrorKind::Store(StoreErrorKind::NoSpace),
            ComponentErrorKind::Builder(BuilderErrorKind::Unsupported),
        ] {
            let error = ComponentError::new(kind, "no");
            assert!((0..9).all(|_| pool.failed(0, &error, START).is_none()));
        }
        let kind = ComponentErrorKind::Builder(BuilderErrorKind::Unreachable);
        let error = ComponentError::new(kind, "no route");
        assert!(pool.failed(0, &error, START).is_some());
    }
}
