//! Conventions that a machine can hold, held here: the layers, the homes of crates, the size of files.
//!
//! The rules are functions in `rules.rs`, shown to fail beside them; this file runs them over the
//! tree. A rule that meets a good reason gets an entry in a table with that reason, and an entry
//! that excuses nothing any more fails too, so the tables only shrink.

mod lex;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use self::rules::{Source, Violation};

/// A violation that is meant.
struct Exception {
    rule: &'static str,
    path: &'static str,
    what: &'static str,
    reason: &'static str,
}

/// What may differ from the rules.
const EXCEPTIONS: [Exception; 1] = [Exception {
    rule: "errno",
    path: "src/unixfs/import/source.rs",
    what: "ENXIO",
    reason: "how lseek(2) says that only a hole is left; io::ErrorKind has no word for it",
}];

/// Files over [`rules::LINES_MAX`], each with the length it may not outgrow and why it is one file.
const LONG_FILES: [(&str, usize, &str); 0] = [];

#[test]
fn layers_reach_down_only() {
    assert_clean("layers", over_files("src", rules::layers));
}

#[test]
fn crates_stay_in_their_layer() {
    assert_clean("homes", over_files("src", rules::homes));
}

#[test]
fn errno_is_chosen_in_one_place() {
    assert_clean("errno", over_files("src", rules::errno));
}

#[test]
fn files_say_what_they_are() {
    assert_clean("module-doc", over_files("src", rules::module_doc));
    assert_clean("module-doc", over_files("tests", rules::module_doc));
}

#[test]
fn nothing_is_unfinished() {
    let mut found = over_files("src", rules::unfinished);
    found.extend(over_files("tests", rules::unfinished));
    assert_clean("unfinished", found);
}

#[test]
fn files_stay_short() {
    let listed = |path: &str| LONG_FILES.iter().find(|entry| entry.0 == path).map(|entry| entry.1);
    let rule = |file: &Source<'_>| rules::length(file, listed(file.path));
    let mut found = over_files("src", rule);
    found.extend(over_files("tests", rule));
    assert_clean("length", found);
    for (path, _, reason) in LONG_FILES {
        assert!(root().join(path).is_file(), "{path} is listed ({reason}) but gone");
    }
}

/// One table of layers: the rules', the map's and the code's are the same.
#[test]
fn the_map_names_every_layer() {
    let check = |path| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        rules::layer_order(&Source { path, text: &text })
    };
    let found = ["src/lib.rs", "docs/ARCHITECTURE.md"].into_iter().flat_map(check);
    assert_clean("layer-order", found.collect());
}

#[test]
fn pages_name_what_is_there() {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let folders = ["", "docs", "mount"].map(|folder| root().join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let pages = entries.map(|entry| entry.unwrap().path()).filter(is_page);
    let rule = |page: &Source<'_>| {
        rules::page_paths(page, |path| root().join(path).symlink_metadata().is_ok())
    };
    assert_clean("page-paths", pages.flat_map(|page| check_file(&page, rule)).collect());
}

/// Cargo compiles what is declared and says nothing of the rest: a test in a forgotten file passes
/// for ever, and code in one only looks alive.
#[test]
fn every_file_is_compiled() {
    for (folder, roots) in [("tests", &["runner.rs"][..]), ("src", &["lib.rs", "main.rs"][..])] {
        let folder = root().join(folder);
        let reached: BTreeSet<PathBuf> =
            roots.iter().flat_map(|file| reached_from(&folder.join(file))).collect();
        let all = BTreeSet::from_iter(rust_files(&folder));
        let forgotten: Vec<&PathBuf> = all.difference(&reached).collect();
        assert!(forgotten.is_empty(), "declare these with `mod`, or delete them: {forgotten:#?}");
    }
}

#[test]
fn a_forgotten_file_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("b")).unwrap();
    write("runner.rs", "mod a;\nmod b;\nmod inline {}\n");
    write("a.rs", "");
    write("b/mod.rs", "mod c;");
    write("b/c.rs", "");
    write("b/forgotten.rs", "");
    let reached = BTreeSet::from_iter(reached_from(&folder.path().join("runner.rs")));
    let all = BTreeSet::from_iter(rust_files(folder.path()));
    let forgotten: Vec<&PathBuf> = all.difference(&reached).collect();
    assert_eq!(forgotten, [&folder.path().join("b/forgotten.rs")]);
}

/// Takes the exceptions of one rule off what it found; fails on the rest, and on exceptions that
/// excuse nothing.
fn assert_clean(rule: &str, found: Vec<Violation>) {
    let excuses = |exception: &Exception, violation: &Violation| {
        (exception.rule, exception.path, exception.what)
            == (violation.rule, violation.path.as_str(), violation.what.as_str())
    };
    for exception in EXCEPTIONS.iter().filter(|exception| exception.rule == rule) {
        let used = found.iter().any(|violation| excuses(exception, violation));
        let Exception { path, what, reason, .. } = exception;
        assert!(used, "{path} no longer needs its exception for {what} ({reason}): remove it");
    }
    let left: Vec<String> = found
        .iter()
        .filter(|violation| !EXCEPTIONS.iter().any(|exception| excuses(exception, violation)))
        .map(|v| format!("{}:{}: {}: {}: {}", v.path, v.line, v.rule, v.what, v.remedy))
        .collect();
    assert!(left.is_empty(), "\n{}", left.join("\n"));
}

fn over_files(folder: &str, rule: impl Fn(&Source<'_>) -> Vec<Violation>) -> Vec<Violation> {
    rust_files(&root().join(folder)).iter().flat_map(|path| check_file(path, &rule)).collect()
}

fn check_file(path: &Path, rule: impl Fn(&Source<'_>) -> Vec<Violation>) -> Vec<Violation> {
    let text = fs::read_to_string(path).unwrap();
    let path = path.strip_prefix(root()).unwrap().display().to_string();
    rule(&Source { path: &path, text: &text })
}

/// All `.rs` files below a folder, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    assert!(found.len() < 10_000, "{}: a walk that long is lost", folder.display());
    found
}

/// The file itself and those it declares, directly or not.
fn reached_from(file: &Path) -> Vec<PathBuf> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap();
    let folder = file.parent().unwrap();
    let below = match stem {
        "mod" | "lib" | "main" | "runner" => folder.to_owned(),
        _ => folder.join(stem),
    };
    let mut reached = vec![file.to_owned()];
    for name in rules::declared_modules(&fs::read_to_string(file).unwrap()) {
        let places = [below.join(format!("{name}.rs")), below.join(&name).join("mod.rs")];
        reached.extend(places.iter().filter(|place| place.is_file()).flat_map(|p| reached_from(p)));
    }
    reached
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
