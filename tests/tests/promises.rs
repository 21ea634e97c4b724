//! Every promise in `docs/behaviours.md` is cited by a test, and nothing else is.
//!
//! A test cites a promise in a comment (`// LIMIT-1`), or in the docstring of a case with real clients.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

#[test]
fn every_promise_is_cited_by_a_test() {
    let promised = promised();
    assert!(promised.len() > 50, "docs/behaviours.md was not understood");
    let behaviours = promised.iter().filter_map(|id| id.split_once('-'));
    let behaviours = behaviours.map(|(behaviour, _)| behaviour).collect();
    let cited = cited(&behaviours);

    let uncited: Vec<_> = promised.difference(&cited).collect();
    assert!(
        uncited.is_empty(),
        "promised, but cited by no test: {uncited:?}"
    );
    let unknown: Vec<_> = cited.difference(&promised).collect();
    assert!(unknown.is_empty(), "cited, but not promised: {unknown:?}");
}

/// The ids in bold: `**LIMIT-1**`.
fn promised() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/behaviours.md")).expect("the promises");
    text.split("**")
        .filter(|word| id(word).is_some())
        .map(str::to_owned)
        .collect()
}

/// The ids in the comments of tests. `RFC-9110` is none.
fn cited(behaviours: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut files = Vec::new();
    for crate_ in fs::read_dir(root().join("crates")).expect("the crates") {
        let crate_ = crate_.expect("a crate").path();
        collect(&crate_.join("src"), &mut files);
        collect(&crate_.join("tests"), &mut files);
    }
    collect(&root().join("tests/tests"), &mut files);
    collect(&root().join("tests/clients"), &mut files);

    let mut cited = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        for line in text.lines() {
            let comment = line.trim_start();
            if ["//", "#", "\"\"\""]
                .iter()
                .any(|mark| comment.starts_with(mark))
            {
                let words = comment.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                let ids = words.filter(|word| id(word).is_some_and(|id| behaviours.contains(id)));
                cited.extend(ids.map(str::to_owned));
            }
        }
    }
    cited
}

/// The behaviour of which `word` numbers a promise, if it does.
fn id(word: &str) -> Option<&str> {
    let (behaviour, number) = word.split_once('-')?;
    let capitals = behaviour.bytes().all(|letter| letter.is_ascii_uppercase());
    let digits = number.bytes().all(|digit| digit.is_ascii_digit());
    (capitals && digits && !behaviour.is_empty() && !number.is_empty()).then_some(behaviour)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "py")
        {
            files.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
