//! The way to a situation, written down: readable, and to be gone again.

use serde::{Deserialize, Serialize};

use super::{
    Scope,
    setting::Setting,
    state::{Choice, Log, State},
};
use crate::Violation;

/// A list of choices from the beginning of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trail {
    /// What it shows, for people.
    #[serde(default)]
    pub about: String,
    /// The promise that is broken at the end, if any: its id, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violation: Option<String>,
    pub scope: Scope,
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// One choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Names it among the choices of the situation.
    pub choice: String,
    /// What followed, for people.
    #[serde(default)]
    pub did: Vec<String>,
}

/// Ordinary choices after which a run that has not arrived never will.
const ORDINARY_MAX: usize = 1_000;

impl Trail {
    pub(super) fn new(setting: &Setting, path: impl Iterator<Item = Choice>, violation: Option<&Violation>) -> Self {
        let mut trail = Self {
            about: String::new(),
            violation: violation.map(ToString::to_string),
            scope: setting.scope.clone(),
            steps: Vec::new(),
        };
        let Ok(mut state) = State::first(setting, &mut Log::default()) else { return trail };
        for choice in path {
            let mut log = Log { notes: Some(Vec::new()), ..Log::default() };
            let words = state.describe(choice, &setting.scope);
            let next = state.after(choice, setting, &mut log);
            trail.steps.push(Step { choice: words, did: log.notes.unwrap_or_default() });
            match next {
                Ok(next) => state = next,
                Err(_) => break,
            }
        }
        trail
    }

    /// Goes the way again, and on by ordinary choices until the run arrives.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn replay(&self) -> Result<(), Violation> {
        let unusable = |detail| Violation { invariant: "trail", detail };
        let setting = Setting::new(&self.scope).map_err(unusable)?;
        let mut log = Log::default();
        let mut state = State::first(&setting, &mut log)?;
        state.check(&setting, &mut log)?;
        let mut choices = Vec::new();
        for (number, step) in (1..).zip(&self.steps) {
            state.choices(&setting, &mut choices);
            let Some(choice) = choices.iter().find(|choice| state.describe(**choice, &self.scope) == step.choice)
            else {
                let possible: Vec<String> = choices.iter().map(|choice| state.describe(*choice, &self.scope)).collect();
                let (choice, possible) = (&step.choice, possible.join(", "));
                return Err(unusable(format!("step {number}, {choice:?}, is not possible. Possible are: {possible}")));
            };
            state = state.after(*choice, &setting, &mut log)?;
            state.check(&setting, &mut log)?;
        }
        for _ in 0..ORDINARY_MAX {
            if state.has_arrived(&setting) {
                return Ok(());
            }
            state.choices(&setting, &mut choices);
            let Some(choice) = choices.first() else { break };
            state = state.after(*choice, &setting, &mut log)?;
            state.check(&setting, &mut log)?;
        }
        let detail = format!("everything is delivered, and the run does not arrive: {state}");
        Err(Violation { invariant: "L1", detail })
    }
}
