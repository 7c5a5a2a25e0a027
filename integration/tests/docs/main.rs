//! The documents agree with the tree: every metric is in the table, every link leads somewhere, every promise is quoted
//! by a test that checks it.

mod promises;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::promises::{UNIT, UNTESTED, place, promises, quotes};

/// What the metrics of each crate begin with.
const PREFIXES: [(&str, &str); 4] =
    [("metad", "dfs_metad_"), ("chunkd", "dfs_chunkd_"), ("dfs-client", "dfs_client_"), ("dfs-fuse", "dfs_fuse_")];

fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate has a parent directory")?;
    Ok(root.to_path_buf())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// All files below `dir` whose names end in `suffix`.
fn files(dir: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, suffix)?);
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The string literals of a source that begin with `prefix` and have more than that.
fn literals(source: &str, prefix: &str) -> BTreeSet<String> {
    let pieces = source.split('"').filter(|piece| piece.starts_with(prefix) && *piece != prefix);
    pieces.map(str::to_owned).collect()
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The rows of tables whose first cell is a metric: the name, and the other cells.
fn rows(table: &str) -> Vec<(String, Vec<String>)> {
    let lines = table.lines().filter(|line| line.starts_with("| `dfs_"));
    lines
        .filter_map(|line| {
            let mut cells = line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            let name = cells.next()?.trim_matches('`').to_owned();
            Some((name, cells.collect()))
        })
        .collect()
}

/// Where the links of a Markdown text lead; code is no text.
fn links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let text: String = line.split('`').step_by(2).collect();
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target.to_owned()));
        }
    }
    found
}

#[test]
fn every_metric_is_in_the_table_and_the_other_way_round() -> Result<()> {
    let root = root()?;
    let table = rows(&read(&root.join("docs/metrics.md"))?);
    let documented: BTreeSet<String> = table.iter().map(|(name, _)| name.clone()).collect();
    ensure!(documented.len() == table.len(), "docs/metrics.md has a metric twice");

    let mut in_code = BTreeSet::new();
    for (member, prefix) in PREFIXES {
        let mut names = BTreeSet::new();
        for path in files(&root.join(member).join("src"), ".rs")? {
            names.extend(literals(&read(&path)?, prefix));
        }
        ensure!(!names.is_empty(), "no metric in {member}: does this test still look at the right place?");
        for name in &names {
            ensure!(is_name(name), "{member} has {name:?}: the name of a metric stands in the code as it is");
        }
        in_code.extend(names);
    }
    let missing: Vec<_> = in_code.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&in_code).collect();
    ensure!(missing.is_empty() && gone.is_empty(), "docs/metrics.md lacks {missing:?}; the code lacks {gone:?}");
    Ok(())
}

#[test]
fn the_table_of_metrics_is_well_formed() -> Result<()> {
    for (name, cells) in rows(&read(&root()?.join("docs/metrics.md"))?) {
        let [kind, unit, meaning] = cells.as_slice() else {
            anyhow::bail!("{name} has {} cells after its name instead of type, unit and meaning", cells.len());
        };
        let expected = if name.ends_with("_total") { "counter" } else { "gauge" };
        ensure!(kind == expected, "{name} is a {kind}: counters, and only they, end in _total");
        let counts_bytes = name.trim_end_matches("_total").ends_with("_bytes");
        ensure!((unit == "bytes") == counts_bytes, "{name} counts {unit}: what counts bytes, and only that, says so");
        ensure!(!meaning.is_empty(), "{name} means nothing");
    }
    Ok(())
}

#[test]
fn every_relative_link_leads_to_a_file() -> Result<()> {
    let root = root()?;
    let mut documents = files(&root.join("docs"), ".md")?;
    documents.push(root.join("ARCHITECTURE.md"));
    let readme = root.join("README.md");
    if readme.exists() {
        documents.push(readme);
    }
    let (mut broken, mut checked) = (Vec::new(), 0);
    for document in documents {
        let dir = document.parent().context("a document lies in a directory")?;
        for link in links(&read(&document)?) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            if !dir.join(path).exists() {
                broken.push(format!("{} -> {link}", document.display()));
            }
        }
    }
    ensure!(checked > 0, "no links were found");
    ensure!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn every_promise_is_quoted_by_a_test() -> Result<()> {
    let root = root()?;
    let promised = promises(&read(&root.join("docs/semantics.md"))?);
    // The words, and where they are quoted.
    let mut tested: Vec<(String, String)> = Vec::new();
    for path in files(&root.join("integration/tests"), ".rs")? {
        let by = path.display().to_string();
        let words = quotes(&read(&path)?).with_context(|| by.clone())?;
        tested.extend(words.into_iter().map(|words| (words, by.clone())));
    }
    ensure!(!tested.is_empty(), "no quotes were found");
    for (words, path, test) in UNIT {
        ensure!(read(&root.join(path))?.contains(&format!("fn {test}(")), "{path} has no test {test}");
        tested.push(((*words).to_owned(), (*path).to_owned()));
    }
    let mut quoted = BTreeSet::new();
    for (words, by) in tested {
        quoted.insert(place(&promised, &words).context(by)?);
    }
    for words in UNTESTED {
        ensure!(quoted.insert(place(&promised, words)?), "a test quotes what is said to be untested: {words}");
    }
    let open = promised.iter().enumerate().filter(|(n, _)| !quoted.contains(n));
    let open: Vec<&str> = open.map(|(_, promise)| promise.as_str()).collect();
    ensure!(open.is_empty(), "no test quotes these promises of docs/semantics.md:\n{}", open.join("\n"));
    Ok(())
}

#[test]
fn what_is_looked_for_is_found() {
    let source = r#"counter!("dfs_x_a_total"); /// `dfs_x_b`
        const N: &str = "dfs_x_c"; name.starts_with("dfs_x_"); "dfs_x_d {}""#;
    let found: Vec<_> = literals(source, "dfs_x_").into_iter().collect();
    assert_eq!(found, ["dfs_x_a_total", "dfs_x_c", "dfs_x_d {}"]);
    assert!(is_name(&found[0]) && !is_name(&found[2]));

    let table = rows("| name | type |\n|---|---|\n| `dfs_x_a_total` | counter | - | how many |\ntext `dfs_x_b`\n");
    let cells = ["counter", "-", "how many"].map(str::to_owned).to_vec();
    assert_eq!(table, [("dfs_x_a_total".to_owned(), cells)]);

    let text = "a [b](c.md) and [d](e/f.md#g), `[no](x.md)`\n```\n[no](y.md)\n```\n[h](https://i)\n";
    assert_eq!(links(text), ["c.md", "e/f.md#g", "https://i"]);
}
