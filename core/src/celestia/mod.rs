//! What Celestia carries: namespaces, the square that blobs lie in, blobs and their records.

mod blob;
mod false_namespaces;
mod joiner;
mod namespace;
mod proof;
mod scanner;
pub mod square;
mod trusting;

pub use blob::{BlobError, DROPPED_MAX, DecodedList, decode_metadata, decode_rollup_data, unpack};
pub(crate) use blob::{ENTRIES, unpack_at_most};
pub use false_namespaces::{
    FALSE_NAMESPACES_BYTES, FalseAnswer, FalseNamespaces, Falsehood, NoFalsehood, ProvenFalsehood, false_namespaces,
};
pub(crate) use joiner::{Dropped, Evidence, Joiner, Lack};
pub use namespace::Namespace;
pub use proof::{BlockError, ExpectedBlock, ProvenBlock, prove_block};
pub(crate) use scanner::Scanner;
pub(crate) use trusting::{Run, Trusting, Way};
