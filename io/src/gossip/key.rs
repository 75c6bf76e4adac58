//! The node's key: an ed25519 seed in a file that only its owner may read. It is never shown.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use libp2p::identity::Keypair;

/// First line of the file; the second is the seed in 64 hex digits.
const HEADER: &str = "downbeat node key, version 1";

/// More than a key file ever has.
const BYTES_MAX: u64 = 1024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {error}", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{path} holds the node's key and others may read or write it (mode {mode:03o}); run: chmod 600 {path}",
        path = .path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is no node key; move it away to have a new one made", path = .0.display())]
    Malformed(PathBuf),
    #[error("the system has no entropy for a node key: {0}")]
    Entropy(String),
}

/// The key in `path`. Where there is no file, a new key is made and kept there.
///
/// # Errors
/// If others may read the file, if it is no key, or if it cannot be read or written.
pub fn load_or_create(path: &Path) -> Result<Keypair, KeyError> {
    match fs::OpenOptions::new().read(true).open(path) {
        Ok(file) => load(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(KeyError::Io { path: path.to_owned(), error }),
    }
}

/// A key that is forgotten with the process.
///
/// # Errors
/// If the system has no entropy.
pub fn ephemeral() -> Result<Keypair, KeyError> {
    from_seed(&mut seed()?).ok_or_else(|| KeyError::Entropy("a seed was refused".to_owned()))
}

fn load(path: &Path, file: fs::File) -> Result<Keypair, KeyError> {
    let failed = |error| KeyError::Io { path: path.to_owned(), error };
    // Of the open file, so that it cannot be another one by now.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    match file.take(BYTES_MAX).read_to_string(&mut text) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(KeyError::Malformed(path.to_owned())),
        result => result.map_err(failed)?,
    };
    let mut lines = text.lines();
    let (header, digits, rest) = (lines.next(), lines.next().unwrap_or_default(), lines.next());
    let mut seed = [0; 32];
    let decoded = hex::decode_to_slice(digits.trim(), &mut seed);
    let keypair = (header == Some(HEADER) && rest.is_none() && decoded.is_ok()).then(|| from_seed(&mut seed)).flatten();
    keypair.ok_or_else(|| KeyError::Malformed(path.to_owned()))
}

fn create(path: &Path) -> Result<Keypair, KeyError> {
    let failed = |error| KeyError::Io { path: path.to_owned(), error };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut seed = seed()?;
    let text = format!("{HEADER}\n{}\n", hex::encode(seed));
    // Written whole under another name: a crash must not leave half a key behind.
    let partial = path.with_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)?;
    from_seed(&mut seed).ok_or_else(|| KeyError::Malformed(path.to_owned()))
}

fn seed() -> Result<[u8; 32], KeyError> {
    use rand_core::TryRngCore as _;
    let mut seed = [0; 32];
    rand_core::OsRng.try_fill_bytes(&mut seed).map_err(|error| KeyError::Entropy(error.to_string()))?;
    Ok(seed)
}

/// Clears the seed.
fn from_seed(seed: &mut [u8; 32]) -> Option<Keypair> {
    Keypair::ed25519_from_bytes(seed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gossip/node.key");
        let made = load_or_create(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(load_or_create(&path).unwrap().public(), made.public());
        let other = load_or_create(&directory.path().join("other.key")).unwrap();
        assert_ne!(other.public(), made.public());
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        load_or_create(&path).unwrap();
        let seed = fs::read_to_string(&path).unwrap().lines().nth(1).unwrap().to_owned();
        for exposed in [0o640, 0o604, 0o660, 0o606] {
            fs::set_permissions(&path, fs::Permissions::from_mode(exposed)).unwrap();
            let error = load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {exposed:03o}")) && error.contains("chmod 600"), "{error}");
            assert!(!error.contains(&seed), "the error shows the key");
            assert_eq!(mode(&path), exposed, "nothing is mended behind the operator's back");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let digits = "ab".repeat(32);
        let long = format!("{HEADER}\n{digits}\n{digits}\n");
        for text in ["", "hunter2", HEADER, &format!("{HEADER}\nzz"), &format!("v2\n{digits}"), &long] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::Malformed(_)), "{text:?}: {error}");
            assert!(!error.to_string().contains("hunter2"));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, [0xff; 80]).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Malformed(_))));
    }
}
