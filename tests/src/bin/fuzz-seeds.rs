//! Writes the inputs that fuzzing starts from to `fuzz/seeds`, in place of those that are there.

use std::{fs, io, path::Path};

use downbeat_tests::fuzz::seeds;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for (target, name, content) in seeds::seeds() {
        fs::create_dir_all(root.join(target))?;
        fs::write(root.join(target).join(name), content)?;
    }
    Ok(())
}
