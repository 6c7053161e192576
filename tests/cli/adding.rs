//! `cidfs add`: the CIDs of the vectors, flag by flag, and what is printed.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use super::sandbox::{HELLO, Sandbox, TREE, vector_tree};

/// CID of the empty directory as CIDv1.
const EMPTY_DIR: &str = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";

#[test]
fn flags_give_the_cids_of_the_vectors() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    let check = |flags: &str, cid: &str| {
        let args: Vec<&str> = ["add", "-Q"].into_iter().chain(flags.split_whitespace()).collect();
        assert_eq!(sandbox.ok(&[&args[..], &["h"]].concat()), cid, "{flags}");
    };
    check("", HELLO);
    // Raw leaves stay as the profile has them, and a raw leaf has a CIDv1.
    check("--cid-version=0", HELLO);
    check("--cid-version=0 --raw-leaves=false", "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o");
    let old = |flags: &str, cid| check(&format!("--profile=unixfs-v0-2015 {flags}"), cid);
    old("", "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o");
    old("--raw-leaves", HELLO);
    old("--cid-version=1", HELLO);
    old(
        "--cid-version=1 --raw-leaves=false",
        "bafybeicg2rebjoofv4kbyovkw7af3rpiitvnl6i7ckcywaq6xjcxnc2mby",
    );
    old("--inline", "bafyaafakcieaeeqmnbswy3dpeb3w64tmmqfbqda");
    old("--inline --cid-version=1", "bafkqaddimvwgy3zao5xxe3debi");
    old("--inline --inline-limit=10", "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o");
    old("--trickle", "QmVib14uvPnCP73XaCDpwugRuwfTsVbGyWbatHAmLSdZUS");
    old("-w", "QmWPAG26NVbKvgctSCRnivGzFhgzMcBoJgRFtUUfrLMzam");
    old("-w --cid-version=1", "bafybeidllwfg5mlm5kecyagypx2p5fxswi4dy2pqzusqniw2dr5uqsd5sq");
    old(
        "--mode=0755 --mtime=1700000000 --mtime-nsecs=123456789",
        "QmXawsuHEy1uuRsKS2bYT1SsfyQaESvF5RPPU1mdsvnBe6",
    );
    old(
        "--cid-version=1 --mode=0644",
        "bafybeibon6ytb4v2gyzwdbm26f2noxwlnbq7sapjljp4u5f42xqrragcsu",
    );
    old(
        "--cid-version=1 --mtime=1700000000",
        "bafybeifwvqn5os6nzxqhfizovyijp4krxp24fswlqhw4gijob5uzdnlttq",
    );
}

#[test]
fn a_large_file_has_the_cids_of_the_vectors() {
    let sandbox = Sandbox::new();
    sandbox.write("zeros", vec![0; 1_048_577]);
    let check = |flags: &[&str], cid: &str| {
        assert_eq!(sandbox.ok(&[&["add", "-Q", "zeros"], flags].concat()), cid, "{flags:?}");
    };
    check(&[], "bafybeihd4yzq7n5umhjngdum4r6k2to7egxfkf2jz6thvwzf6djus22cmq");
    let old = |flags: &[&str], cid| check(&[&["--profile=unixfs-v0-2015"], flags].concat(), cid);
    old(&[], "Qmeb988ZjF9Ui6AVPR8Sjg5sAv1B6DauS5rUjCoNs7ftZ1");
    old(&["--chunker=buzhash"], "QmdtbBYvXw3bbHzcFS3pnksbWvKxSiYvcBtSa8Ch7ESyid");
    old(&["--trickle"], "QmZh6F2zhsWtNFJTbBrET16xzB5AX5zteB5j7gCk4BZxVJ");
    old(&["--trickle", "--raw-leaves"], "QmdvSLhTBGEb8mGPsa7TkHUwbXPM89LAjvD59ayBfptpP5");
    old(&["--hash=blake3"], "bafyb4ie3aysg44as4bblgcxwsnlyiiikuy7derugrtpr5nu2zk7xxnqxuy");
}

#[test]
fn a_directory_is_told_entry_by_entry() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    let told = sandbox.ok(&["add", "-r", "d"]);
    let mut lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.pop(), Some(format!("added {TREE} d").as_str()), "the root comes last");
    lines.sort_unstable();
    let link = "bafybeiar537gtgwbfdxiqzybddgre3qnehtxmegnc573cpzs3lza53a4la";
    let expected = [
        format!("added {HELLO} d/hello.txt"),
        format!("added {link} d/link"),
        format!("added {EMPTY_DIR} d/sub"),
    ];
    assert_eq!(lines, expected);
    assert_eq!(sandbox.ok(&["add", "-rQ", "d"]), TREE);
    assert_eq!(sandbox.ok(&["add", "-rq", "d"]).lines().count(), 4);
    assert_eq!(sandbox.ok(&["add", "-r", "--silent", "d"]), "");
    assert_eq!(
        sandbox.ok(&["add", "-rQ", "--profile=unixfs-v0-2015", "d"]),
        "QmSGuAmMcrJoUhjD2air2WUGVVJ4KCdhnXqLk6qwKN5jqN"
    );
    assert_eq!(
        sandbox.ok(&["add", "-rQ", "--profile=unixfs-v0-2015", "--empty-dirs=false", "d"]),
        "Qmaq1mM9DJsHzDUsW8WYAqNGxnxWzdbNTL3LvxnqqmMA1N"
    );
}

#[test]
fn a_directory_needs_the_flag() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.fails(&["add", "d"], 1, &["is a directory, use the '-r' flag to specify directories"]);
}

#[test]
fn json_is_that_of_the_control_api() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    let told = sandbox.ok(&["add", "--json", "h"]);
    assert_eq!(told, format!(r#"{{"Name":"h","Hash":"{HELLO}","Size":"12"}}"#));
}

#[test]
fn standard_input_is_a_file() {
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| sandbox.run_with_input(args, b"hello world\n").ok();
    assert_eq!(run(&["add"]), format!("added {HELLO} {HELLO}"));
    assert_eq!(run(&["add", "-Q", "-"]), HELLO);
    let wrapped = run(&["add", "-wQ", "--stdin-name=h", "--profile=unixfs-v0-2015"]);
    assert_eq!(wrapped, "QmWPAG26NVbKvgctSCRnivGzFhgzMcBoJgRFtUUfrLMzam");
    assert_eq!(sandbox.run_with_input(&["add", "-Q"], b"").ok().len(), HELLO.len());
    let long = vec![7; 3_000_000];
    let cid = sandbox.run_with_input(&["add", "-Q"], &long).ok();
    assert_eq!(sandbox.run(&["cat", &cid]).stdout, long);
}

#[test]
fn a_directory_is_no_standard_input() {
    let sandbox = Sandbox::new();
    for args in [&["add"][..], &["add", "-"], &["block", "put"], &["dag", "import"]] {
        let input = std::fs::File::open(sandbox.repo()).unwrap();
        let output = sandbox.command().args(args).stdin(input).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.contains("standard input is a directory"), "{args:?}: {told}");
        assert!(told.contains("cidfs add -r DIR"), "{args:?}: {told}");
    }
}

#[test]
fn hidden_and_ignored_files_are_left_out() {
    let sandbox = Sandbox::new();
    sandbox.write("d/hello.txt", "hello world\n");
    sandbox.write("d/.hidden", "x");
    sandbox.write("d/junk.tmp", "x");
    sandbox.write("rules", "*.tmp\n");
    let names = |flags: &[&str]| {
        let root = sandbox.ok(&[&["add", "-rQ", "d"], flags].concat());
        let listing = sandbox.ok(&["ls", "--size=false", &root]);
        listing.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["hello.txt", "junk.tmp"]);
    assert_eq!(names(&["--hidden"]), [".hidden", "hello.txt", "junk.tmp"]);
    assert_eq!(names(&["--ignore=*.tmp"]), ["hello.txt"]);
    assert_eq!(names(&["--ignore-rules-path=rules"]), ["hello.txt"]);
}

#[test]
fn only_hash_stores_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    assert_eq!(sandbox.ok(&["add", "-nQ", "h"]), HELLO);
    sandbox.fails(&["cat", HELLO], 1, &["is not here", "Hint:"]);
    assert_eq!(sandbox.ok(&["pin", "ls"]), "");
}

#[test]
fn many_paths_and_any_bytes_survive() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    let sandbox = Sandbox::new();
    let odd = OsString::from_vec(b"odd\xff&=%name".to_vec());
    sandbox.write(&odd, "hello world\n");
    let run = sandbox.run(&[OsString::from("add"), odd.clone()]);
    assert_eq!(run.stdout, [b"added ", HELLO.as_bytes(), b" odd\xff&=%name\n"].concat());
    let mut args = vec![OsString::from("add"), OsString::from("-wQ"), odd];
    for number in 0..2000 {
        let name = format!("a-name-long-enough-to-fill-the-longest-address-{number}");
        sandbox.write(&name, "hello world\n");
        args.push(name.into());
    }
    let root = sandbox.ok(&args);
    let listing = sandbox.run(&["ls", &root]).stdout;
    assert_eq!(listing.split(|&byte| byte == b'\n').count(), 2002);
    assert!(listing.ends_with(b"odd\xff&=%name\n"));
    let path = OsString::from_vec([root.as_bytes(), b"/odd\xff&=%name"].concat());
    assert_eq!(sandbox.ok(&[OsString::from("cat"), path]), "hello world");
}

#[test]
fn wrong_choices_are_named() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    let check = |flag: &str, words: &[&str]| sandbox.fails(&["add", flag, "h"], 1, words);
    check("--profile=nonsense", &["no import profile \"nonsense\"", "unixfs-v1-2025"]);
    check("--chunker=size-0", &["chunker"]);
    check("--hash=md5", &["md5"]);
    check("--cid-version=7", &["CID version 7"]);
    check("--max-hamt-fanout=100", &["power of two"]);
    sandbox.fails(&["add", "--inline", "--inline-limit=4000", "h"], 1, &["128"]);
    sandbox.fails(&["add", "nowhere"], 1, &["nowhere"]);
    sandbox.fails(&["add", "--nonsense", "h"], 2, &["--nonsense"]);
    sandbox.fails(&["add", "-", "h"], 2, &["cannot be mixed"]);
}

#[test]
fn a_mode_is_octal() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    let check = |mode: &str, stored: &str| {
        let cid = sandbox.ok(&["add", "-Q", "--mode", mode, "h"]);
        let told = sandbox.ok(&["stat", "--format=<mode-octal>", &cid]);
        assert_eq!(told, stored, "{mode}");
    };
    check("755", "0755");
    check("0755", "0755");
    check("0o640", "0640");
    check("7", "0007");
    check("7777", "7777");
    for mode in ["888", "0789", "10000", "0o10000", "-1", "+7", "rwx", "0o", "", "0x7"] {
        sandbox.fails(&["add", &format!("--mode={mode}"), "h"], 2, &["octal", "7777", "0644"]);
    }
}

/// Other tools write no mode for 0, so the CIDs are those without one.
#[test]
fn a_mode_that_is_not_stored_is_told() {
    let sandbox = Sandbox::new();
    sandbox.write("d/shut", "hello world\n");
    sandbox.write("d/open", "hello world\n");
    let shut = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(sandbox.path("d/shut"), shut).unwrap();
    let check = |args: &[&str], name: &str, told: &str| {
        let run = sandbox.run(&[&["add"], args].concat());
        assert!(run.code == 0 && run.stderr.contains(told), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), usize::from(!told.is_empty()), "{}", run.stderr);
        assert!(String::from_utf8(run.stdout).unwrap().contains(name));
    };
    check(&["-r", "--preserve-mode", "d"], "d/shut", "d/shut: the mode 0000 is not stored");
    check(&["--mode=0", "d/open"], "open", "--mode=0: the mode 0000 is not stored");
    check(&["-r", "--preserve-mode", "--mode=0600", "d"], "d/shut", "");
    check(&["-r", "d"], "d/shut", "");
    let args = ["add", "-Q", "--profile=unixfs-v0-2015"];
    let none = sandbox.ok(&[&args[..], &["d/open"]].concat());
    assert_eq!(sandbox.ok(&[&args[..], &["--mode=0", "d/open"]].concat()), none);
}

#[test]
fn no_content_ends_an_upload_early() {
    let sandbox = Sandbox::new();
    // What an upload itself looks like, for instance from a recording of one.
    let old = "\r\n--cidfs-5a1cf0c29d8e4f6f9c3b7e21d0a48b65-the-only-part";
    let content = format!("{old}\r\nContent-Disposition: form-data\r\n\r\nx{old}--\r\n");
    sandbox.write("f", &content);
    let added = sandbox.run_with_input(&["add", "-Q"], content.as_bytes()).ok();
    assert_eq!(added, sandbox.ok(&["add", "-Q", "f"]));
}

#[test]
fn an_import_that_nobody_listens_to_is_no_success() {
    let sandbox = Sandbox::new();
    // More lines than the buffers on the way hold.
    for n in 0..3_000 {
        sandbox.write(format!("d/{n:0100}"), "x");
    }
    let mut command = sandbox.command();
    command.args(["add", "-r", "d"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("closed before everything was added"), "{told}");
    assert_eq!(sandbox.ok(&["pin", "ls"]), "", "nothing is acknowledged");
}

#[test]
fn a_root_is_named_when_it_is_pinned() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    // A name too long for a pin fails after everything was imported: nothing may claim success.
    let name = "n".repeat(300);
    let run = sandbox.run(&["add", "-r", "--pin-name", &name, "d"]);
    let told = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(told.contains("d/hello.txt") && !told.contains(TREE), "{told}");
}
