//! The light client's rules against two others: a plain verifier that checks every height, and the library whose rules
//! they are. And each kind of bad input by its name.

mod bad_input;
mod celestia;
mod chain;
mod histories;
