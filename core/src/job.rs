//! Heavy pure work, run outside the loop.

/// Placeholder until defined.
#[derive(Clone, Debug)]
pub enum Job {}
#[derive(Clone, Debug)]
pub enum JobOutcome {}
impl Job {
    /// A pure function of its input; panics never.
    pub fn run(self) -> JobOutcome { match self {} }
}
