//! A run as a page for people.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use downbeat::timeline::{Actor, Builder, Leg, html};
use downbeat_core::{CellId, Command, CommandId, Conductor, Refusal, Stamped, Timestamp};
use downbeat_world::World;

use crate::{
    Scenario, Simulation, Violation,
    fault::{Firing, Group, Kind, Site},
    peers::{Peer, peer_of, site_of},
    queue::Observer,
};

/// Feeds a timeline. Its times are those of the conductor's clock: what the world reports is placed after the last
/// event that the conductor has seen, should its clock be ahead.
struct Watch {
    builder: Builder,
    last: Timestamp,
    /// Calls by the passage of their site, as faults name them.
    calls: BTreeMap<(Site, u64), CommandId>,
    passed: BTreeMap<Site, u64>,
}

struct Shared(Rc<RefCell<Watch>>);

/// Runs a scenario and returns its page, which shows the last `steps` events, and how the run ended. `token` is what to
/// replay it with.
pub fn page(scenario: Scenario, token: &str, steps: usize) -> (String, Result<(), Violation>) {
    let title =
        if scenario.about.is_empty() { format!("Simulation, seed {}", scenario.seed) } else { scenario.about.clone() };
    let command = format!("cargo run --release -p downbeat-sim -- replay {token}");
    let watch = Rc::new(RefCell::new(Watch {
        builder: Builder::new(title, command).keep(steps),
        last: Timestamp::ZERO,
        calls: BTreeMap::new(),
        passed: BTreeMap::new(),
    }));
    let mut simulation = Simulation::observed(scenario, Some(Box::new(Shared(Rc::clone(&watch)))));
    let result = simulation.finish();
    let mut watch = watch.borrow_mut();
    if let Err(violation) = &result {
        let at = simulation.now().max(watch.last);
        watch.builder.violation(violation.invariant, &violation.detail, at);
    }
    (html(&watch.builder.build()), result)
}

impl Observer for Shared {
    fn step(&mut self, input: &Stamped, result: &Result<(), Refusal>, commands: &[Command], conductor: &Conductor) {
        let mut watch = self.0.borrow_mut();
        watch.last = watch.last.max(input.at);
        watch.builder.step(input, result, commands, conductor);
        for command in commands {
            if let Command::Call { id, call, .. } = command {
                let site = site_of(call);
                let nth = watch.passed.entry(site).or_default();
                let key = (site, *nth);
                *nth += 1;
                watch.calls.insert(key, *id);
            }
        }
    }

    fn arrived(&mut self, id: CommandId, at: Timestamp) {
        let mut watch = self.0.borrow_mut();
        let at = at.max(watch.last);
        watch.builder.arrived(id, at);
    }

    fn fault(&mut self, firing: Firing, at: Timestamp, until: Timestamp) {
        let mut watch = self.0.borrow_mut();
        let call = watch.calls.get(&(firing.at, firing.nth)).copied();
        match (firing.kind, call) {
            (Kind::Lost, Some(id)) => watch.builder.lost(id, Leg::Request),
            (Kind::ReplyLost, Some(id)) => watch.builder.lost(id, Leg::Reply),
            _ => {}
        }
        let from = at.max(watch.last);
        let to = Some(from.after(until.since(at)));
        let kind = firing.kind.name().replace('_', " ");
        let (actor, detail) = (actor_of(firing), firing.to_string());
        if firing.kind.group() == Group::Network && actor != Actor::Conductor {
            watch.builder.link_fault(&kind, actor, from, to, &detail);
        } else {
            watch.builder.fault(&kind, actor, from, to, &detail);
        }
    }

    fn world(&mut self, world: &World, at: Timestamp) {
        let mut watch = self.0.borrow_mut();
        let at = at.max(watch.last);
        watch.builder.head(Actor::CometBft, "head", at, world.sequencer.head().0);
        watch.builder.head(Actor::Celestia, "head", at, world.celestia.head().0);
    }
}

/// On whose lane a fault is shown.
fn actor_of(firing: Firing) -> Actor {
    match (firing.kind, firing.at) {
        (Kind::SequencerStall, _) => Actor::CometBft,
        (_, Site::Node(cell)) => Actor::Rollup(CellId(cell)),
        (_, Site::CelestiaBlock) => Actor::Celestia,
        (kind, _) if matches!(kind.group(), Group::Relayer | Group::Strangers) => Actor::Celestia,
        (kind, _) if matches!(kind.group(), Group::Process | Group::Clock) => Actor::Conductor,
        (_, Site::Second | Site::Event | Site::Disk | Site::Run) => Actor::Conductor,
        (_, site) => match peer_of(site) {
            Peer::Sequencer => Actor::Sequencer,
            Peer::CometBft => Actor::CometBft,
            Peer::Celestia => Actor::Celestia,
            Peer::Others => Actor::Peers,
            Peer::Node(cell) => Actor::Rollup(CellId(cell)),
        },
    }
}

#[cfg(test)]
mod tests {
    use downbeat::timeline::{Outcome, Timeline};

    use super::*;

    fn timeline(page: &str) -> Timeline {
        let (_, rest) = page.split_once("id=\"data\">").expect("the data is there");
        serde_json::from_str(rest.split_once("</script>").expect("it ends").0).expect("it is JSON")
    }

    #[test]
    fn a_run_is_shown_with_its_faults_and_what_became_of_its_messages() {
        let lossy = (0..1_000).map(Scenario::swarm).find(|scenario| scenario.faults.contains_key(&Kind::Lost));
        let (page, result) = page(lossy.expect("half of them lose calls"), "seed:0", 2_000);
        assert!(result.is_ok(), "{result:?}");
        let timeline = timeline(&page);
        assert!(timeline.violations.is_empty());
        assert!(timeline.steps.is_sorted_by_key(|step| step.at));
        assert!(timeline.faults.iter().any(|fault| fault.kind == "lost"));
        let of = |outcome| timeline.messages.iter().filter(|message| message.outcome == outcome).count();
        assert!(of(Outcome::Ok) > 20 && of(Outcome::Lost) > 0);
    }

    #[test]
    fn a_violation_is_marked_at_the_end_of_the_run() {
        // Nobody can reach a head that is not made in this time.
        let scenario = Scenario { blocks: 1_000_000, healthy_for_s: 5, ..Scenario::swarm(1) };
        let (page, result) = page(scenario, "seed:1", 10_000);
        let violation = result.expect_err("it cannot arrive");
        let timeline = timeline(&page);
        assert_eq!(timeline.violations[0].invariant, violation.invariant);
        assert!(timeline.violations[0].at >= timeline.steps.last().expect("there are steps").at);
    }
}
