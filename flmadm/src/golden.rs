//! Files in `golden/` with what commands print, for tests.

use std::path::Path;

/// Compares `text` with the file `golden/NAME`; with FLAME_BLESS=1 in the environment writes the file instead.
pub(crate) fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("FLAME_BLESS").is_some() {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).expect("made");
        }
        std::fs::write(&path, text).expect("written");
    }
    let expected = std::fs::read_to_string(&path).expect("a golden file");
    assert_eq!(
        text, expected,
        "{name} (FLAME_BLESS=1 writes the golden files anew)"
    );
}
