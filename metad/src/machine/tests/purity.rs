//! The machine and the core know no clock, no chance, no task and no outer world.

use std::path::Path;

fn sources(dir: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn machine_and_core_are_pure() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src/machine", "src/schema", "../dfs-core/src"] {
        sources(&here.join(dir), &mut files);
    }
    assert!(files.len() > 40, "the sources are where this test looks for them");
    let forbidden =
        ["SystemTime", "Instant", "rand::", "tokio", "std::fs", "std::net", "std::thread", "HashMap", "HashSet"];
    for file in files.iter().filter(|f| !f.components().any(|c| c.as_os_str() == "tests")) {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        // What times are converted from and to is named in one place; nobody asks a clock there.
        let conversions = file.ends_with("dfs-core/src/time.rs");
        for word in forbidden {
            let names = code.lines().filter(|l| !l.trim_start().starts_with("//") && l.contains(word)).count();
            let allowed = word == "SystemTime" && conversions && !code.contains("::now(");
            assert!(names == 0 || allowed, "{} has {word}", file.display());
        }
    }
}
