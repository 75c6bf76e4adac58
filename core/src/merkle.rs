//! RFC 6962 Merkle trees over SHA-256.

/// A SHA-256 digest.
pub type Hash = [u8; 32];
