//! `cat`, `ls`, `get`, `stat`, `resolve`, `dag`, `block`, `refs`: what comes back out.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Stdio;

use cidfs::codec::car;
use cidfs::testkit::dag_builder::DagBuilder;
use serde_json::json;

use super::sandbox::{ABSENT, HELLO, Sandbox, TREE, vector_tree};

fn with_tree() -> Sandbox {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    assert_eq!(sandbox.ok(&["add", "-rQ", "d"]), TREE);
    sandbox
}

#[test]
fn cat_writes_files_and_parts_of_them() {
    let sandbox = with_tree();
    let file = format!("{TREE}/hello.txt");
    let check = |args: &[&str], text: &str| {
        assert_eq!(sandbox.ok(&[&["cat", &file], args].concat()), text, "{args:?}");
    };
    check(&[], "hello world");
    check(&["--offset=6"], "world");
    check(&["--offset=1", "--length=4"], "ello");
    check(&["--offset=100"], "");
    check(&["--length=0"], "");
    check(&[&file, "--offset=6", "--length=10"], "world\nhell");
    assert_eq!(sandbox.ok(&["cat", &format!("/ipfs/{HELLO}")]), "hello world");
    assert_eq!(sandbox.ok(&["cat", &format!("ipfs://{HELLO}")]), "hello world");
    let link = format!("{TREE}/link");
    assert_eq!(sandbox.ok(&["cat", &link]), "hello.txt", "kubo's clients read targets so");
    assert_eq!(sandbox.ok(&["cat", &link, &file, "--offset=6", "--length=6"]), "txthel");
}

#[test]
fn cat_says_why_not() {
    let sandbox = with_tree();
    let check = |path: &str, words: &[&str]| sandbox.fails(&["cat", path], 1, words);
    check(TREE, &["this dag node is a directory", "cidfs ls"]);
    check(&format!("{TREE}/nope"), &["no entry \"nope\""]);
    check(&format!("{TREE}/hello.txt/x"), &["is not a directory"]);
    check(ABSENT, &["is not here", "offline", "Hint:"]);
    check("nonsense", &["invalid path \"nonsense\""]);
    check("/ipns/example.org", &["/ipns/example.org"]);
    sandbox.fails(&["cat"], 2, &["Usage"]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let sandbox = Sandbox::new();
    sandbox.write("long", vec![b'x'; 20_000_000]);
    let cid = sandbox.ok(&["add", "-Q", "long"]);
    for args in [vec!["cat", &cid], vec!["dag", "export", &cid]] {
        let mut child = sandbox
            .command()
            .args(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The reader takes nothing and goes away.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn ls_has_columns() {
    let sandbox = with_tree();
    let listing = sandbox.ok(&["ls", TREE]);
    let link = "bafybeiar537gtgwbfdxiqzybddgre3qnehtxmegnc573cpzs3lza53a4la";
    let sub = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";
    let expected = format!("{HELLO} 12 hello.txt\n{link} 9  link\n{sub} -  sub/");
    assert_eq!(listing, expected);
    assert_eq!(sandbox.ok(&["ls", "--size=false", &format!("{TREE}/sub")]), "");
    assert!(sandbox.ok(&["ls", "-v", TREE]).starts_with("Hash"));
    let two = sandbox.ok(&["ls", TREE, &format!("{TREE}/sub")]);
    assert!(two.contains(&format!("{TREE}:\n")) && two.contains(&format!("\n\n{TREE}/sub:")));
}

#[test]
fn ls_shows_what_it_cannot_look_at() {
    let sandbox = with_tree();
    sandbox.ok(&["pin", "rm", TREE]);
    let link = "bafybeiar537gtgwbfdxiqzybddgre3qnehtxmegnc573cpzs3lza53a4la";
    sandbox.ok(&["block", "rm", link]);
    let listing = sandbox.ok(&["ls", TREE]);
    assert!(listing.contains(&format!("{link} ?  link")), "{listing}");
}

#[test]
fn ls_as_json_is_one_value_or_a_stream() {
    let sandbox = with_tree();
    let whole: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["ls", "--json", TREE])).unwrap();
    assert_eq!(whole["Objects"][0]["Hash"], TREE);
    let links = whole["Objects"][0]["Links"].as_array().unwrap();
    assert_eq!(links.len(), 3);
    assert_eq!(links[0]["Name"], "hello.txt");
    assert_eq!((links[0]["Size"].as_u64(), links[0]["Type"].as_u64()), (Some(12), Some(2)));
    assert_eq!(
        (links[1]["Target"].as_str(), links[1]["Type"].as_u64()),
        (Some("hello.txt"), Some(4))
    );
    assert_eq!(links[2]["Type"], 1);
    let stream = sandbox.ok(&["ls", "--json", "--stream", TREE]);
    let lines: Vec<serde_json::Value> =
        stream.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "kubo's clients take one link a line");
    for (line, link) in lines.iter().zip(links) {
        assert_eq!(*line, json!({ "Objects": [{ "Hash": TREE, "Links": [link] }] }));
    }
    assert_eq!(sandbox.ok(&["ls", "--json", "--stream", &format!("{TREE}/sub")]), "");
}

#[test]
fn stat_tells_sizes_and_kept_metadata() {
    let sandbox = with_tree();
    assert_eq!(
        sandbox.ok(&["stat", TREE]),
        format!(
            "{TREE}\nSize: 0\nCumulativeSize: 183\nChildBlocks: 3\nType: directory\n\
             Mode: not set (not set)\nMtime: not set"
        )
    );
    let cid = sandbox.ok(&["add", "-Q", "--mode=0640", "--mtime=1700000000", "d/hello.txt"]);
    let told = sandbox.ok(&["stat", &cid]);
    assert!(told.ends_with("Mode: -rw-r----- (0640)\nMtime: 14 Nov 2023, 22:13:20 UTC"), "{told}");
    assert_eq!(sandbox.ok(&["stat", "--hash", &cid]), cid);
    assert_eq!(sandbox.ok(&["stat", "--format=<size> <type>", &cid]), "12 file");
    assert_eq!(sandbox.ok(&["stat", "--format=<type>", &format!("{TREE}/link")]), "symlink");
    let local = sandbox.ok(&["stat", "--with-local", TREE]);
    assert!(local.ends_with("Local: 183 B of 183 B (100.00%)"), "{local}");
    let json: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["stat", "--json", &cid])).unwrap();
    assert_eq!((json["Size"].as_u64(), json["Mode"].as_str()), (Some(12), Some("640")));
}

#[test]
fn resolve_follows_names() {
    let sandbox = with_tree();
    let path = format!("/ipfs/{TREE}/hello.txt");
    assert_eq!(sandbox.ok(&["resolve", &path]), format!("/ipfs/{HELLO}"));
    let upper = sandbox.ok(&["resolve", "--cid-base=base16", &path]);
    assert!(upper.starts_with("/ipfs/f01551220"), "{upper}");
    assert_eq!(sandbox.ok(&["resolve", "--json", &path]), format!(r#"{{"Path":"/ipfs/{HELLO}"}}"#));
}

#[test]
fn get_copies_files_trees_and_archives() {
    let sandbox = with_tree();
    sandbox.ok(&["get", TREE, "-o", "out"]);
    assert_eq!(std::fs::read(sandbox.path("out/hello.txt")).unwrap(), b"hello world\n");
    assert_eq!(std::fs::read_link(sandbox.path("out/link")).unwrap().to_str(), Some("hello.txt"));
    assert!(sandbox.path("out/sub").is_dir());
    assert_eq!(sandbox.ok(&["add", "-rQ", "out"]), TREE, "what was got is what was added");
    sandbox.ok(&["get", &format!("{TREE}/hello.txt")]);
    assert_eq!(std::fs::read(sandbox.path("hello.txt")).unwrap(), b"hello world\n");
    sandbox.ok(&["get", "-a", TREE, "-o", "tree.tar"]);
    let archive = std::fs::File::open(sandbox.path("tree.tar")).unwrap();
    let mut archive = tar::Archive::new(archive);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names[1..],
        [format!("{TREE}/hello.txt"), format!("{TREE}/link"), format!("{TREE}/sub")]
    );
    sandbox.fails(&["get", "-a", TREE, "-o", "tree.tar"], 1, &["tree.tar", "exists"]);
    sandbox.fails(&["get", TREE, "-o", "no/where"], 1, &["no directory"]);
}

/// A target is any text, whatever it would be as a path.
#[test]
fn get_leaves_targets_of_links_as_they_are() {
    let sandbox = with_tree();
    std::fs::create_dir(sandbox.path("links")).unwrap();
    let long = "a//".repeat(60);
    let targets = ["/", "a//b/", "a/./b", ".", "x/.", &long];
    for (name, target) in targets.into_iter().enumerate() {
        std::os::unix::fs::symlink(target, sandbox.path(format!("links/{name}"))).unwrap();
    }
    let cid = sandbox.ok(&["add", "-rQ", "links"]);
    sandbox.ok(&["get", &cid, "-o", "out"]);
    for (name, target) in targets.into_iter().enumerate() {
        let found = std::fs::read_link(sandbox.path(format!("out/{name}"))).unwrap();
        assert_eq!(found.as_os_str(), target);
    }
}

#[test]
fn get_keeps_permissions_and_times() {
    let sandbox = with_tree();
    let cid = sandbox.ok(&["add", "-rQ", "--mode=0700", "--mtime=1700000000", "d"]);
    sandbox.ok(&["get", &cid, "-o", "out"]);
    for name in ["out", "out/hello.txt", "out/sub"] {
        let metadata = std::fs::metadata(sandbox.path(name)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o700, 1_700_000_000), "{name}");
    }
}

#[test]
fn get_keeps_times_to_the_nanosecond_and_before_1970() {
    let sandbox = with_tree();
    let check = |flags: &[&str], time: (i64, i64)| {
        let cid = sandbox.ok(&[&["add", "-rQ"], flags, &["d"]].concat());
        let out = format!("out{}.{}", time.0, time.1);
        sandbox.ok(&["get", &cid, "-o", &out]);
        for name in ["", "hello.txt", "link", "sub"] {
            let metadata = sandbox.path(&out).join(name).symlink_metadata().unwrap();
            assert_eq!((metadata.mtime(), metadata.mtime_nsec()), time, "{flags:?} {name}");
        }
    };
    check(&["--mtime=1700000000", "--mtime-nsecs=123456789"], (1_700_000_000, 123_456_789));
    check(&["--mtime=0"], (0, 0));
    check(&["--mtime=0", "--mtime-nsecs=1"], (0, 1));
    check(&["--mtime=-1"], (-1, 0));
    check(&["--mtime=-86400", "--mtime-nsecs=500000000"], (-86_400, 500_000_000));
    check(&["--mtime=1", "--mode=0400"], (1, 0));
}

#[test]
fn get_gives_strangers_programs_no_power() {
    let sandbox = Sandbox::new();
    sandbox.write("f", "#!/bin/sh\n");
    std::fs::create_dir(sandbox.path("d")).unwrap();
    for name in ["f", "d"] {
        let permissions = Permissions::from_mode(0o7755);
        std::fs::set_permissions(sandbox.path(name), permissions).unwrap();
        let cid = sandbox.ok(&["add", "-rQ", "--preserve-mode", name]);
        let out = format!("{name}.out");
        sandbox.ok(&["get", &cid, "-o", &out]);
        let mode = std::fs::metadata(sandbox.path(out)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o1755, "{name}");
    }
}

#[test]
fn get_does_not_follow_links_that_lie_there() {
    let sandbox = Sandbox::new();
    sandbox.write("d/sub/f", "x");
    let cid = sandbox.ok(&["add", "-rQ", "d"]);
    for name in ["out", "elsewhere"] {
        std::fs::create_dir(sandbox.path(name)).unwrap();
    }
    std::os::unix::fs::symlink("../elsewhere", sandbox.path("out/sub")).unwrap();
    sandbox.fails(&["get", &cid, "-o", "out"], 1, &["out/sub exists, is a symbolic link"]);
    assert_eq!(std::fs::read_dir(sandbox.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn get_replaces_files_only() {
    let sandbox = with_tree();
    let file = format!("{TREE}/hello.txt");
    nix::unistd::mkfifo(&sandbox.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    sandbox.write("own", "mine");
    std::os::unix::fs::symlink("own", sandbox.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", sandbox.path("dangling")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(sandbox.path("socket")).unwrap();
    let names = [
        ("fifo", "is a FIFO"),
        ("socket", "is a socket"),
        ("link", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
    ];
    for (name, words) in names {
        let kind = || sandbox.path(name).symlink_metadata().unwrap().file_type();
        let before = kind();
        for content in [TREE, &file] {
            sandbox.fails(&["get", content, "-o", name], 1, &[name, "exists", words, "-o"]);
        }
        sandbox.fails(&["get", ABSENT, "-o", name], 1, &[words]);
        sandbox.fails(&["get", "-a", TREE, "-o", name], 1, &[name, "exists"]);
        assert_eq!(kind(), before, "{name}");
    }
    assert_eq!(std::fs::read(sandbox.path("own")).unwrap(), b"mine");
    sandbox.fails(&["get", TREE, "-o", "own"], 1, &["own exists, is a file"]);
    sandbox.ok(&["get", &file, "-o", "own"]);
    assert_eq!(std::fs::read(sandbox.path("own")).unwrap(), b"hello world\n");
}

#[test]
fn get_adds_to_a_directory() {
    let sandbox = with_tree();
    sandbox.write("out/own", "mine");
    sandbox.write("out/hello.txt", "older");
    for _ in 0..2 {
        sandbox.ok(&["get", TREE, "-o", "out"]);
        assert_eq!(std::fs::read(sandbox.path("out/hello.txt")).unwrap(), b"hello world\n");
    }
    assert_eq!(std::fs::read(sandbox.path("out/own")).unwrap(), b"mine");
    for name in ["hello.txt", "link"] {
        let place = sandbox.path("out").join(name);
        std::fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink("own", &place).unwrap();
        let words = format!("out/{name} exists, is a symbolic link and is not replaced");
        sandbox.fails(&["get", TREE, "-o", "out"], 1, &[&words]);
        std::fs::remove_file(&place).unwrap();
    }
    let file = format!("{TREE}/hello.txt");
    sandbox.fails(&["get", &file, "-o", "out"], 1, &["out exists, is a directory"]);
    sandbox.ok(&["get", &file, "-o", "out/"]);
    assert_eq!(std::fs::read(sandbox.path("out/hello.txt")).unwrap(), b"hello world\n");
}

/// Paths add up on the way down, so they must not add up to more memory than there is.
#[test]
fn get_ends_where_no_path_can_go() {
    let mut builder = DagBuilder::new();
    let mut dag = builder.raw("bottom");
    for _ in 0..17 {
        dag = builder.directory(&[("n".repeat(255), dag)]);
    }
    let mut archive = Vec::new();
    car::write_header(&mut archive, &[dag]).unwrap();
    for block in &builder.blocks {
        car::write_section(&mut archive, block).unwrap();
    }
    let sandbox = Sandbox::new();
    sandbox.write("deep.car", archive);
    sandbox.ok(&["dag", "import", "deep.car"]);
    let args = ["get", "-a", &dag.to_string(), "-o", "deep.tar"];
    sandbox.fails(&args, 1, &["a path of over 4095 bytes"]);
}

#[test]
fn a_copy_without_names_that_no_file_can_have_is_not_whole() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("inside");
    let names = ["..", "/abs", "a/b", ".", "ok"].map(|name| (name.as_bytes().to_vec(), file));
    let plain = builder.directory(&names);
    let sharded = builder.sharded(&names.into_iter().collect(), 256);
    let (over, whole) = (builder.directory(&[("p", plain)]), builder.directory(&[("ok", file)]));
    let mut archive = Vec::new();
    car::write_header(&mut archive, &[over, sharded, whole]).unwrap();
    for block in &builder.blocks {
        car::write_section(&mut archive, block).unwrap();
    }
    let sandbox = Sandbox::new();
    sandbox.write("t.car", archive);
    sandbox.ok(&["dag", "import", "t.car"]);
    let words = "not copied, and maybe others like it: no file can have this name";
    for (dag, ok, path) in [(over, "p/ok", "out/p/.."), (sharded, "ok", "out/")] {
        assert!(sandbox.ok(&["ls", &dag.to_string()]).lines().count() == 1);
        sandbox.fails(&["get", &dag.to_string(), "-o", "out"], 1, &[words, path]);
        assert_eq!(std::fs::read(sandbox.path("out").join(ok)).unwrap(), b"inside");
        sandbox.fails(&["get", "-a", &dag.to_string(), "-o", "x.tar"], 1, &[words]);
        assert!(!sandbox.path("x.tar").try_exists().unwrap());
        std::fs::remove_dir_all(sandbox.path("out")).unwrap();
    }
    sandbox.ok(&["get", &whole.to_string(), "-o", "out"]);
}

#[test]
fn errors_command_no_terminal() {
    let sandbox = with_tree();
    let name = "a\u{1b}[2J\u{7}b";
    std::fs::create_dir(sandbox.path(name)).unwrap();
    let run = sandbox.run(&["get", &format!("{TREE}/hello.txt"), "-o", name]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains(r"a\u{1b}[2J\u{7}b exists, is a directory"), "{}", run.stderr);
    assert!(!run.stderr.replace('\n', "").contains(char::is_control), "{:?}", run.stderr);
    assert!(run.stderr.lines().count() > 1, "line ends are kept");
}

#[test]
fn a_get_that_fails_is_no_archive() {
    let sandbox = with_tree();
    sandbox.ok(&["pin", "rm", TREE]);
    sandbox.ok(&["block", "rm", HELLO]);
    sandbox.fails(&["get", "-a", TREE, "-o", "tree.tar"], 1, &["is not here"]);
    assert!(!sandbox.path("tree.tar").try_exists().unwrap());
    sandbox.fails(&["get", TREE, "-o", "out"], 1, &["is not here"]);
}

/// Whenever it is: there is a whole file or nothing.
#[test]
fn a_get_that_is_killed_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("file", vec![7; 40_000_000]);
    let cid = sandbox.ok(&["add", "-Q", "file"]);
    std::fs::create_dir(sandbox.path("out")).unwrap();
    for (number, args) in [&["get"][..], &["get", "-a"]].iter().cycle().take(10).enumerate() {
        let mut command = sandbox.command();
        command.args(*args).args([&cid, "-o", "out/"]).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10 * number as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        for entry in std::fs::read_dir(sandbox.path("out")).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.file_name().to_str().unwrap().starts_with(&cid), "{entry:?}");
            assert!(entry.metadata().unwrap().len() >= 40_000_000, "{entry:?}");
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn get_names_what_comes_and_obeys_the_umask() {
    let sandbox = with_tree();
    sandbox.ok(&["get", &format!("{TREE}/sub/..")]);
    assert!(sandbox.path(TREE).join("hello.txt").is_file());
    std::fs::create_dir(sandbox.path("in")).unwrap();
    sandbox.ok(&["get", "-a", TREE, "-o", "in/"]);
    let archive = std::fs::read(sandbox.path("in").join(format!("{TREE}.tar"))).unwrap();
    let piped = sandbox.run(&["get", "-a", TREE, "-o", "-"]);
    assert_eq!((piped.code, piped.stdout.len()), (0, archive.len()), "{}", piped.stderr);
    sandbox.fails(&["get", "-a", TREE, "-o", "in"], 1, &["in exists, is a directory"]);
    let script = format!("umask 077; exec \"$0\" get {TREE} -o private");
    let mut shell = sandbox.command_of("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_cidfs")]);
    assert!(shell.status().unwrap().success());
    for (name, mode) in [("private", 0o700), ("private/hello.txt", 0o600)] {
        let metadata = std::fs::metadata(sandbox.path(name)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn a_get_that_fails_leaves_no_half_file() {
    let sandbox = Sandbox::new();
    sandbox.write("file", (0..=u8::MAX).cycle().take(3000).collect::<Vec<_>>());
    let cid = sandbox.ok(&["add", "-Q", "--chunker=size-1000", "file"]);
    let refs = sandbox.ok(&["refs", &cid]);
    sandbox.ok(&["pin", "rm", &cid]);
    sandbox.ok(&["block", "rm", refs.lines().last().unwrap()]);
    sandbox.write("places/own", "mine");
    for name in ["places/own", "places/new"] {
        sandbox.fails(&["get", &cid, "-o", name], 1, &["is not here"]);
    }
    assert_eq!(std::fs::read(sandbox.path("places/own")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(sandbox.path("places")).unwrap().count(), 1);
}

#[test]
fn blocks_go_in_and_out() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    assert_eq!(sandbox.ok(&["block", "put", "h"]), HELLO);
    let put = |args: &[&str]| {
        sandbox.run_with_input(&[&["block", "put"], args].concat(), &[0x0a, 2, 8, 1]).ok()
    };
    assert_eq!(put(&["--format=v0"]), "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn");
    let dir = put(&["--cid-codec=dag-pb"]);
    assert_eq!(dir, "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354");
    assert_eq!(sandbox.ok(&["ls", &dir]), "");
    assert_eq!(sandbox.run(&["block", "get", HELLO]).stdout, b"hello world\n");
    assert_eq!(sandbox.ok(&["block", "stat", HELLO]), format!("Key: {HELLO}\nSize: 12"));
    assert_eq!(sandbox.ok(&["block", "rm", HELLO]), format!("removed {HELLO}"));
    sandbox.fails(&["block", "rm", HELLO], 1, &["cannot remove", "some blocks not removed"]);
    assert_eq!(sandbox.ok(&["block", "rm", "--force", HELLO]), format!("removed {HELLO}"));
    sandbox.fails(&["block", "put", "--cid-codec=nonsense", "h"], 1, &["unknown codec"]);
    sandbox.write("big", vec![0; 2 * 1024 * 1024 + 1]);
    let limit = "over the limit of 2097152 bytes";
    sandbox.fails(&["block", "put", "big"], 1, &[limit, "cidfs add"]);
    let run = sandbox.run_with_input(&["block", "put", "-"], &vec![0; 2 * 1024 * 1024 + 1]);
    assert!(run.code == 1 && run.stderr.contains(limit), "{}", run.stderr);
    sandbox.fails(&["block", "put", "repo"], 1, &["repo is a directory"]);
}

#[test]
fn dags_are_shown_and_counted() {
    let sandbox = with_tree();
    let node: serde_json::Value = serde_json::from_str(&sandbox.ok(&["dag", "get", TREE])).unwrap();
    assert_eq!(node["Links"][0]["Name"], "hello.txt");
    assert_eq!(node["Links"][0]["Hash"]["/"], HELLO);
    assert_eq!(node["Data"]["/"]["bytes"], "CAE");
    assert_eq!(sandbox.run(&["dag", "get", "--output-codec=raw", HELLO]).stdout, b"hello world\n");
    assert_eq!(sandbox.ok(&["dag", "resolve", &format!("{TREE}/hello.txt")]), HELLO);
    let stat: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["dag", "stat", "--json", TREE])).unwrap();
    assert_eq!((stat["UniqueBlocks"].as_u64(), stat["TotalSize"].as_u64()), (Some(4), Some(183)));
    let twice: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["dag", "stat", "--json", TREE, TREE])).unwrap();
    assert_eq!((twice["TotalSize"].as_u64(), twice["SharedSize"].as_u64()), (Some(183), Some(183)));
    assert!(sandbox.ok(&["dag", "stat", TREE]).contains("Total Size: 183 (183 B)"));
}

#[test]
fn values_inside_a_block_have_paths() {
    let sandbox = Sandbox::new();
    let json = format!(r#"{{"a":[1,{{"b":"deep"}}],"link":{{"/":"{HELLO}"}}}}"#);
    let cid =
        sandbox.run_with_input(&["block", "put", "--cid-codec=dag-json"], json.as_bytes()).ok();
    sandbox.write("h", "hello world\n");
    sandbox.ok(&["add", "h"]);
    assert_eq!(sandbox.ok(&["dag", "get", &format!("{cid}/a/1/b")]), "\"deep\"");
    assert_eq!(sandbox.ok(&["dag", "get", &cid]), json);
    assert_eq!(sandbox.ok(&["dag", "resolve", &format!("{cid}/a/1/b")]), format!("{cid}/a/1/b"));
    assert_eq!(sandbox.ok(&["dag", "resolve", &format!("{cid}/link")]), HELLO);
    assert_eq!(sandbox.ok(&["cat", &format!("{cid}/link")]), "hello world");
    assert_eq!(sandbox.ok(&["refs", &cid]), HELLO);
    sandbox.fails(&["cat", &format!("{cid}/a")], 1, &["ends inside the block"]);
}

#[test]
fn refs_list_links() {
    let sandbox = with_tree();
    assert_eq!(sandbox.ok(&["refs", TREE]).lines().count(), 3);
    assert_eq!(
        sandbox.ok(&["refs", "--format=<linkname> <dst>", TREE]).lines().next().unwrap(),
        format!("hello.txt {HELLO}")
    );
    sandbox.write("d/again.txt", "hello world\n");
    let twice = sandbox.ok(&["add", "-rwQ", "d"]);
    assert_eq!(sandbox.ok(&["refs", "-r", &twice]).lines().count(), 5);
    assert_eq!(sandbox.ok(&["refs", "-r", "--unique", &twice]).lines().count(), 4);
    assert_eq!(sandbox.ok(&["refs", "-r", "--max-depth=1", &twice]).lines().count(), 1);
    assert!(sandbox.ok(&["refs", "-e", TREE]).contains(&format!("{TREE} -> {HELLO}")));
}
