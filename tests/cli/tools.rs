//! Unchanged tools on a mounted tree: what they read there is what was imported.
//!
//! The tree is this project's sources; in the long run (`CIDFS_TESTS=full`) it is the machine's
//! `/usr/share`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::sandbox::Sandbox;

/// A tree, where it lies and where it is mounted.
struct Mounted {
    sandbox: Sandbox,
    source: PathBuf,
}

impl Mounted {
    fn new() -> Self {
        let is_full = crate::is_full_run();
        let source =
            if is_full { "/usr/share" } else { concat!(env!("CARGO_MANIFEST_DIR"), "/src") };
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("m")).unwrap();
        sandbox.ok(&["mount", "/ipfs", "m"]);
        Self { sandbox, source: source.into() }
    }

    /// Imports and returns the CID.
    fn add(&self, flags: &[&str], path: &Path) -> String {
        let path = path.to_str().unwrap();
        self.sandbox.ok(&[&["add", "-rQH"], flags, &[path]].concat())
    }

    fn path(&self, cid: &str) -> PathBuf {
        self.sandbox.path("m").join(cid)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.sandbox.run(&["shutdown"]);
    }
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {:?}", output.status);
    output
}

#[test]
fn diff_rsync_and_tar_see_the_same_tree() {
    let mounted = Mounted::new();
    let cid = mounted.add(&["--preserve-mode", "--preserve-mtime"], &mounted.source);
    let (ours, theirs) = (mounted.path(&cid), &mounted.source);
    let (ours, theirs) = (ours.to_str().unwrap(), theirs.to_str().unwrap());
    run("diff", &["-r", "--no-dereference", theirs, ours]);
    let sent = |from: &str, to: &str| {
        run(
            "rsync",
            &["-rlc", "--dry-run", "--delete", "-i", &format!("{from}/"), &format!("{to}/")],
        )
        .stdout
    };
    assert_eq!(String::from_utf8_lossy(&sent(ours, theirs)), "");
    let archive = |dir| {
        let plain = ["--sort=name", "--owner=0", "--group=0", "--format=gnu"];
        let hard_links_as_files = "--hard-dereference";
        run("tar", &[&plain[..], &[hard_links_as_files, "-C", dir, "-cf", "-", "."]].concat())
            .stdout
    };
    assert!(archive(ours) == archive(theirs), "the archives differ");
}

#[test]
fn programs_run_from_the_mount() {
    let mounted = Mounted::new();
    let dir = mounted.sandbox.path("programs");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy("/bin/cat", dir.join("cat")).unwrap();
    let script = "import sys, words\nprint(words.HELLO, open(sys.argv[1]).read())\n";
    mounted.sandbox.write("programs/script.py", script);
    mounted.sandbox.write("programs/words.py", "HELLO = 'hello from'\n");
    mounted.sandbox.write("programs/place", "the mount");
    let there = mounted.path(&mounted.add(&["--preserve-mode"], &dir));
    let file = |name: &str| there.join(name).to_str().unwrap().to_owned();
    assert_eq!(run(&file("cat"), &[&file("place")]).stdout, b"the mount");
    let told = run("python3", &[&file("script.py"), &file("place")]).stdout;
    assert_eq!(told, b"hello from the mount\n");
}

#[test]
fn what_is_mounted_imports_to_itself() {
    let mounted = Mounted::new();
    let dir = mounted.sandbox.path("tree");
    std::fs::create_dir_all(dir.join("a/b")).unwrap();
    let content: Vec<u8> = (0..300_000_u32).flat_map(|n| (n ^ (n >> 7)).to_le_bytes()).collect();
    mounted.sandbox.write("tree/a/big", &content);
    mounted.sandbox.write("tree/a/b/empty", "");
    mounted.sandbox.write("tree/.hidden", "h");
    std::os::unix::fs::symlink("a/big", dir.join("link")).unwrap();
    for n in 0..40 {
        mounted.sandbox.write(format!("tree/a/b/file {n}"), n.to_string());
    }
    for profile in ["--profile=unixfs-v1-2025", "--profile=unixfs-v0-2015"] {
        for chunker in ["size-4096", "size-262144", "rabin", "rabin-4096-8192-16384", "buzhash"] {
            for layout in ["--trickle=false", "--trickle"] {
                for leaves in ["--raw-leaves", "--raw-leaves=false"] {
                    let chunker = format!("--chunker={chunker}");
                    let links = "--max-directory-links=16";
                    let flags = [profile, &chunker, layout, leaves, links, "--max-hamt-fanout=16"];
                    let cid = mounted.add(&flags, &dir);
                    assert_eq!(mounted.add(&flags, &mounted.path(&cid)), cid, "{flags:?}");
                }
            }
        }
    }
    for flags in [&["--preserve-mode", "--preserve-mtime"][..], &["--hash=blake3"], &["--inline"]] {
        let cid = mounted.add(flags, &dir);
        assert_eq!(mounted.add(flags, &mounted.path(&cid)), cid, "{flags:?}");
    }
}
