//! The rules themselves, each a pure function over one file, so that each can be shown to fail.
//!
//! Nothing here reads the disk; `mod.rs` brings the files and the exceptions.

use super::lex::{self, PathUse};

/// The layers from the bottom up: a module uses only those before it. The order of `src/lib.rs`
/// and the table in `docs/ARCHITECTURE.md`.
pub(super) const LAYERS: [&str; 14] = [
    "sys", "block", "codec", "store", "exchange", "dag", "unixfs", "keep", "vfs", "fuse", "api",
    "node", "cli", "testkit",
];

/// Crates that decide much about the code around them, and the only modules that may name them.
/// The longest entry that fits decides.
const HOMES: [(&str, &[&str]); 6] = [
    ("libp2p", &["exchange"]),
    ("libp2p::identity", &["exchange", "names"]),
    ("fuser", &["fuse"]),
    ("sled", &["store"]),
    ("clap", &["cli", "main"]),
    ("anyhow", &["cli", "main"]),
];

/// Where errno values are named: the one table from failure to errno, and the kernel calls, which
/// must tell EINTR and EBUSY apart. Everyone else speaks typed errors or `io::ErrorKind`.
const ERRNO_HOMES: [&str; 3] = ["src/vfs/error.rs", "src/sys/", "src/testkit/"];

/// Lines above which a file must be split or be listed with its reason. Twice the size that a file
/// should have (about 400 without its tests), so that it never stops ordinary work.
pub(super) const LINES_MAX: usize = 700;

/// Folders whose files a page may name.
const PROJECT_FOLDERS: [&str; 6] = ["docs", "fuzz", "mount", "scripts", "src", "tests"];

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Violation {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) rule: &'static str,
    /// What was found, as an exception would name it.
    pub(super) what: String,
    pub(super) remedy: String,
}

/// A source file as a rule sees it.
pub(super) struct Source<'a> {
    /// From the package's root, with `/`.
    pub(super) path: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// Module path below the crate: `src/dag/fetch.rs` is `["dag", "fetch"]`.
    fn module(&self) -> Vec<&str> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').filter(|part| !matches!(*part, "mod" | "lib")).collect()
    }

    fn layer(&self) -> &str {
        self.module().first().copied().unwrap_or("lib")
    }

    /// A file of unit tests: `tests.rs`, or in a folder `tests`.
    fn is_test(&self) -> bool {
        self.module().contains(&"tests")
    }

    fn paths(&self) -> Vec<PathUse> {
        lex::paths(&lex::tokens(self.text), &self.module())
    }

    fn violation(&self, line: usize, rule: &'static str, what: &str, remedy: String) -> Violation {
        Violation { path: self.path.to_owned(), line, rule, what: what.to_owned(), remedy }
    }
}

/// A module uses only the layers below it; test code may use the test doubles too.
pub(super) fn layers(file: &Source<'_>) -> Vec<Violation> {
    let own = file.layer();
    let Some(row) = LAYERS.iter().position(|layer| *layer == own) else { return Vec::new() };
    let mut found = Vec::new();
    for path in file.paths() {
        let [first, target, ..] = path.segments.as_slice() else { continue };
        let in_test = path.in_test || file.is_test();
        let allowed = first != "crate"
            || LAYERS[..=row].contains(&target.as_str())
            || own == "testkit"
            || (in_test && target == "testkit");
        if !allowed {
            let remedy =
                format!("`{own}` may use only {:?}: move the shared part down", &LAYERS[..row]);
            found.push(file.violation(path.line, "layers", &format!("crate::{target}"), remedy));
        }
    }
    found
}

/// Crates stay in the layer that hides them.
pub(super) fn homes(file: &Source<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for path in file.paths() {
        let written = path.segments.join("::");
        let fits = |name: &str| written == name || written.starts_with(&format!("{name}::"));
        let home = HOMES.iter().filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len());
        if let Some((name, modules)) = home
            && !modules.contains(&file.layer())
        {
            let remedy = format!("only {modules:?} may name it: use what that module offers");
            found.push(file.violation(path.line, "homes", name, remedy));
        }
    }
    found
}

/// errno values are named where failures become errno, and where the kernel is called.
pub(super) fn errno(file: &Source<'_>) -> Vec<Violation> {
    if file.is_test() || ERRNO_HOMES.iter().any(|home| file.path.starts_with(home)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for path in file.paths().into_iter().filter(|path| !path.in_test) {
        let [.., owner, name] = path.segments.as_slice() else { continue };
        let errno_like = name == "*"
            || (name.len() > 2 && name.starts_with('E'))
                && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if matches!(owner.as_str(), "libc" | "Errno") && errno_like {
            let remedy = "return a typed error; src/vfs/error.rs chooses its errno".to_owned();
            found.push(file.violation(path.line, "errno", name, remedy));
        }
    }
    found
}

/// Every file says first what it is.
pub(super) fn module_doc(file: &Source<'_>) -> Vec<Violation> {
    if file.text.starts_with("//! ") {
        return Vec::new();
    }
    let remedy = "begin with `//! `: what it is, the idea, what it deliberately does not do";
    vec![file.violation(1, "module-doc", "no `//!`", remedy.to_owned())]
}

/// No test is switched off and no code is promised for later.
pub(super) fn unfinished(file: &Source<'_>) -> Vec<Violation> {
    let tokens = lex::tokens(file.text);
    let mut found = Vec::new();
    for window in tokens.windows(3) {
        let [a, b, c] = window else { continue };
        let (what, remedy) = match (a.text, b.text, c.text) {
            ("#", "[", "ignore") => ("#[ignore]", "assert what it does today, or delete the test"),
            (name @ ("todo" | "unimplemented"), "!", _) => (name, "write it, or leave it out"),
            _ => continue,
        };
        found.push(file.violation(a.line, "unfinished", what, remedy.to_owned()));
    }
    if tokens.is_empty() {
        let remedy = "a file without code is a promise: write it, or delete it".to_owned();
        found.push(file.violation(1, "unfinished", "no code", remedy));
    }
    found
}

/// Long files are listed with their reason, and the list only shrinks.
pub(super) fn length(file: &Source<'_>, listed: Option<usize>) -> Vec<Violation> {
    let lines = file.text.lines().count();
    let remedy = match listed {
        None if lines > LINES_MAX => "split it by its second noun, or list it with a reason",
        Some(limit) if lines > limit => "it grew over its entry: split it",
        Some(_) if lines <= LINES_MAX => "it is short again: take it off the list",
        _ => return Vec::new(),
    };
    vec![file.violation(lines, "length", &format!("{lines} lines"), remedy.to_owned())]
}

/// `lib.rs` declares exactly the layers, and the map has a row for each, both in their order.
pub(super) fn layer_order(file: &Source<'_>) -> Vec<Violation> {
    let listed =
        if file.path.starts_with("docs/") { rows(file.text) } else { declared_modules(file.text) };
    if listed == LAYERS {
        return Vec::new();
    }
    let remedy = format!("must agree with the table of layers: {LAYERS:?}");
    vec![file.violation(1, "layer-order", &format!("{listed:?}"), remedy)]
}

/// First cells of a table's rows that are one word of code: ``| `dag` | …``.
fn rows(text: &str) -> Vec<String> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    cells.map(|(name, _)| name.to_owned()).collect()
}

/// Paths of this project that a page names, as `` `docs/FORMAT.md` ``, lead somewhere.
pub(super) fn page_paths(page: &Source<'_>, is_there: impl Fn(&str) -> bool) -> Vec<Violation> {
    let mut found = Vec::new();
    for (number, line) in page.text.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        let paths = quoted.filter_map(|code| code.split(' ').find(|word| is_project_path(word)));
        for path in paths.filter(|path| !is_there(path)) {
            let remedy = "no such file: the page is wrong, or the file is missing".to_owned();
            found.push(page.violation(number + 1, "page-paths", path, remedy));
        }
    }
    found
}

fn is_project_path(word: &str) -> bool {
    let folder = word.split_once('/').map(|(folder, _)| folder);
    let in_folder = folder.is_some_and(|folder| PROJECT_FOLDERS.contains(&folder));
    in_folder && !word.contains(['*', '<', '…', '{'])
}

/// Names in `mod name;`: the files that a file brings in.
pub(super) fn declared_modules(text: &str) -> Vec<String> {
    let tokens = lex::tokens(text);
    let declared = tokens.windows(3).filter(|w| w[0].text == "mod" && w[2].text == ";");
    declared.map(|w| w[1].text.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        rule: impl Fn(&Source<'_>) -> Vec<Violation>,
        path: &str,
        text: &str,
        expected: &[&str],
    ) {
        let found: Vec<String> =
            rule(&Source { path, text }).into_iter().map(|violation| violation.what).collect();
        assert_eq!(found, expected, "{path}: {text}");
    }

    #[test]
    fn a_layer_reaches_down_only() {
        check(layers, "src/dag/mod.rs", "use crate::store::A; fn f() { crate::block::b() }", &[]);
        check(layers, "src/dag/mod.rs", "use crate::vfs::Vfs;", &["crate::vfs"]);
        check(layers, "src/dag/mod.rs", "fn f() { crate::node::start() }", &["crate::node"]);
        check(layers, "src/dag/a.rs", "use crate::{block::Cid, api::{A, B}};", &["crate::api"; 2]);
        check(layers, "src/dag/mod.rs", "use super::vfs::Vfs;", &["crate::vfs"]);
        check(layers, "src/dag/mod.rs", "use crate::*;", &["crate::*"]);
        check(layers, "src/dag/mod.rs", "// crate::vfs\nconst A: &str = \"crate::vfs\";", &[]);
        check(layers, "src/testkit/mod.rs", "use crate::cli::A;", &[]);
    }

    #[test]
    fn only_test_code_reaches_the_test_doubles() {
        check(layers, "src/dag/mod.rs", "use crate::testkit::A;", &["crate::testkit"]);
        check(layers, "src/dag/mod.rs", "#[cfg(test)] mod t { use crate::testkit::A; }", &[]);
        check(layers, "src/dag/tests.rs", "use crate::testkit::A;", &[]);
        check(layers, "src/dag/tests.rs", "use crate::vfs::A;", &["crate::vfs"]);
    }

    #[test]
    fn crates_stay_at_home() {
        check(homes, "src/store/index.rs", "use sled::Db;", &[]);
        check(homes, "src/vfs/mod.rs", "use sled::Db;", &["sled"]);
        check(homes, "src/vfs/mod.rs", "use fuser::{A, B};", &["fuser", "fuser"]);
        check(homes, "src/node/mod.rs", "fn f() -> anyhow::Result<()> {}", &["anyhow"]);
        check(homes, "src/main.rs", "fn main() -> anyhow::Result<()> {}", &[]);
        check(homes, "src/names/mod.rs", "use libp2p::{identity::Key, swarm};", &["libp2p"]);
        check(homes, "src/vfs/mod.rs", "use libp2p::identity;", &["libp2p::identity"]);
    }

    #[test]
    fn errno_has_one_table() {
        check(errno, "src/vfs/error.rs", "libc::EIO", &[]);
        check(errno, "src/sys/mount.rs", "Errno::EBUSY", &[]);
        check(errno, "src/fuse/mod.rs", "reply.error(fuser::Errno::ENOENT)", &["ENOENT"]);
        check(errno, "src/store/mod.rs", "use libc::{ENOSPC, c_int};", &["ENOSPC"]);
        check(errno, "src/store/mod.rs", "use nix::errno::Errno::*;", &["*"]);
        check(errno, "src/store/mod.rs", "#[cfg(test)] mod tests { libc::EIO; }", &[]);
        check(errno, "src/store/mod.rs", "Kind::EOF; libc::c_int", &[]);
    }

    #[test]
    fn a_file_begins_with_its_doc() {
        check(module_doc, "src/a.rs", "//! What it is.\n", &[]);
        check(module_doc, "src/a.rs", "use a::b;\n//! Late.", &["no `//!`"]);
        check(module_doc, "src/a.rs", "//!\n", &["no `//!`"]);
    }

    #[test]
    fn nothing_is_unfinished() {
        check(unfinished, "src/a.rs", "fn f() { todo!() }", &["todo"]);
        check(unfinished, "src/a.rs", "fn f() { unimplemented!(\"x\") }", &["unimplemented"]);
        check(unfinished, "tests/a.rs", "#[test]\n#[ignore = \"slow\"] fn f() {}", &["#[ignore]"]);
        check(unfinished, "src/a.rs", "//! To be written.\n", &["no code"]);
        check(unfinished, "src/a.rs", "// todo!()\nfn f(ignore: bool) {}", &[]);
    }

    #[test]
    fn long_files_are_a_ratchet() {
        let long = "a\n".repeat(LINES_MAX + 1);
        let listed = |limit| move |file: &Source<'_>| length(file, limit);
        check(listed(None), "src/a.rs", &long, &["701 lines"]);
        check(listed(None), "src/a.rs", &"a\n".repeat(LINES_MAX), &[]);
        check(listed(Some(701)), "src/a.rs", &long, &[]);
        check(listed(Some(700)), "src/a.rs", &long, &["701 lines"]);
        check(listed(Some(800)), "src/a.rs", "a\n", &["1 lines"]);
    }

    #[test]
    fn the_map_and_lib_rs_follow_the_table() {
        let good = LAYERS.map(|layer| format!("pub mod {layer};")).concat();
        check(layer_order, "src/lib.rs", &good, &[]);
        check(layer_order, "src/lib.rs", "pub mod dag;", &["[\"dag\"]"]);
        let good = LAYERS.map(|layer| format!("| `{layer}` | what it promises |\n")).concat();
        check(layer_order, "docs/ARCHITECTURE.md", &good, &[]);
        check(layer_order, "docs/ARCHITECTURE.md", "`dag`\n| `dag` | x |", &["[\"dag\"]"]);
    }
    #[test]
    fn pages_name_what_is_there() {
        let rule = |file: &Source<'_>| page_paths(file, |path| path == "docs/A.md");
        check(rule, "README.md", "see `docs/A.md` and `cargo x`, `a/b`", &[]);
        check(
            rule,
            "README.md",
            "see `docs/B.md` or `sudo scripts/c`",
            &["docs/B.md", "scripts/c"],
        );
        check(rule, "README.md", "```sh\nscripts/d\n```", &[]);
    }
}
