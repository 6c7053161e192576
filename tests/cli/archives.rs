//! `dag import` and `dag export`: archives made by others come in, ours are byte for byte kubo's.

use cidfs::block::Block;
use cidfs::codec::car::CarReader;
use cidfs::testkit::fixtures::shared_fixtures;

use super::sandbox::{HELLO, Sandbox, TREE, vector_tree};

#[test]
fn an_export_is_the_archive_of_the_vectors() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    let car = sandbox.run(&["dag", "export", TREE]).stdout;
    // Header (59 bytes), then sections of 188, 48, 51 and 40 bytes with their lengths.
    assert_eq!(car.len(), 59 + 190 + 49 + 52 + 41);
    assert!(car.starts_with(b"\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00\x01\x70\x12\x20"));
    assert_eq!(car[59..61], [0xbc, 0x01]);
    let other = Sandbox::new();
    other.write("tree.car", &car);
    assert_eq!(other.ok(&["dag", "import", "tree.car"]), format!("Pinned root\t{TREE}\tsuccess"));
    assert_eq!(other.ok(&["cat", &format!("{TREE}/hello.txt")]), "hello world");
    assert_eq!(other.ok(&["pin", "ls", "-t", "recursive"]), format!("{TREE} recursive"));
    let third = Sandbox::new();
    let told = third.run_with_input(&["dag", "import", "--stats", "--pin-roots=false"], &car).ok();
    assert_eq!(told, "Imported 4 blocks (183 bytes)");
    assert_eq!(third.ok(&["pin", "ls"]), "");
    assert_eq!(third.run(&["dag", "export", TREE]).stdout, car);
}

#[test]
fn a_bad_block_is_refused_and_the_others_stored() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    let mut car = sandbox.run(&["dag", "export", TREE]).stdout;
    let place = car.windows(12).position(|window| window == b"hello world\n").unwrap();
    car[place] ^= 1;
    let other = Sandbox::new();
    other.write("bad.car", &car);
    other.fails(
        &["dag", "import", "bad.car"],
        1,
        &["pinning root", "FAILED", "1 blocks were refused, the others stored", HELLO],
    );
    assert_eq!(other.ok(&["ls", "--size=false", TREE]).lines().count(), 3);
    other.fails(&["cat", HELLO], 1, &["is not here"]);
    assert_eq!(other.ok(&["pin", "ls"]), "");
}

#[test]
fn a_block_over_the_limit_is_refused_by_name_and_the_others_stored() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    let car = sandbox.run(&["dag", "export", TREE]).stdout;
    let other = Sandbox::new();
    // After the header: a length of 2 MiB + 5, an identity CID of no bytes, 2 MiB and a byte.
    let big = [&b"\x85\x80\x80\x01\x01\x55\x00\x00"[..], &vec![0; 2 * 1024 * 1024 + 1]].concat();
    let car = [&car[..59], &big, &car[59..]].concat();
    let run = other.run_with_input(&["dag", "import", "-"], &car);
    assert_eq!(run.code, 1);
    for words in ["1 blocks were refused", "bafkqaaa is a block of 2097153 bytes, over the limit"] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    assert_eq!(other.ok(&["cat", &format!("{TREE}/hello.txt")]), "hello world");
}

#[test]
fn what_is_no_archive_is_refused() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    let car = sandbox.run(&["dag", "export", TREE]).stdout;
    let other = Sandbox::new();
    let check = |name: &str, bytes: &[u8], words: &[&str]| {
        other.write(name, bytes);
        other.fails(&["dag", "import", name], 1, &[&[name], words].concat());
    };
    check("empty.car", b"", &["cut short"]);
    check("text.car", b"\x05hello world, this is no archive", &["not a CAR archive"]);
    check("short.car", &car[..car.len() - 3], &["cut short"]);
    other.fails(&["dag", "import", "nowhere.car"], 1, &["nowhere.car", "No such file"]);
    assert_eq!(other.ok(&["cat", HELLO]), "hello world", "what came before the cut is stored");
}

#[test]
fn a_missing_block_ends_an_export_with_an_error() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "--pin=false", "d"]);
    sandbox.ok(&["block", "rm", HELLO]);
    sandbox.fails(&["dag", "export", TREE], 1, &[HELLO, "is not here"]);
}

#[test]
fn archives_of_others_come_in_and_go_out_again() {
    let Some(fixtures) = shared_fixtures() else {
        return;
    };
    let sandbox = Sandbox::new();
    let check = |file: &str, root: &str, path: &str, text: &str| {
        let file = fixtures.join(file);
        let told = sandbox.ok(&["dag", "import", file.to_str().unwrap()]);
        assert!(told.contains(&format!("Pinned root\t{root}\tsuccess")), "{told}");
        assert_eq!(sandbox.ok(&["cat", &format!("{root}/{path}")]), text);
    };
    check(
        "gateway-conformance/path_gateway_unixfs/symlink.car",
        "QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt",
        "foo",
        "content",
    );
    check(
        "gateway-conformance/gateway-cache/fixtures.car",
        "bafybeib3ffl2teiqdncv3mkz4r23b5ctrwkzrrhctdbne6iboayxuxk5ui",
        "root2/root3/root4/index.html",
        "hello",
    );
    let sharded = "bafybeidbclfqleg2uojchspzd4bob56dqetqjsj27gy2cq3klkkgxtpn4i";
    let car =
        "gateway-conformance/trustless_gateway_car/single-layer-hamt-with-multi-block-files.car";
    sandbox.ok(&["dag", "import", fixtures.join(car).to_str().unwrap()]);
    assert_eq!(sandbox.ok(&["ls", sharded]).lines().count(), 1000);
    let again = Sandbox::new();
    again.write("again.car", sandbox.run(&["dag", "export", sharded]).stdout);
    again.ok(&["dag", "import", "again.car"]);
    assert_eq!(again.ok(&["ls", sharded]), sandbox.ok(&["ls", sharded]));
}

/// Sections are gathered or sent alone by their length; their order is that of the walk all the same.
#[test]
fn an_export_of_long_and_short_blocks_is_whole_and_in_order() {
    let sandbox = Sandbox::new();
    for number in 0..300_usize {
        let len = [10, 700, 15_000, 16_384, 90_000][number % 5];
        let content = format!("{number} ").repeat(len / 2);
        sandbox.write(format!("d/{number:03}"), content);
    }
    let root = sandbox.ok(&["add", "-rQ", "d"]);
    let links = sandbox.ok(&["refs", "-r", "--unique", &root]);
    let expected = std::iter::once(root.as_str()).chain(links.lines()).map(str::to_owned);
    let expected: Vec<_> = expected.collect();
    assert!(expected.len() > 250, "the test is about many blocks");
    let check = || {
        let car = sandbox.run(&["dag", "export", &root]).stdout;
        let sections = CarReader::new(&car[..]).unwrap().map(Result::unwrap);
        let blocks = sections.map(|section| Block::verify(section.cid, section.data).unwrap());
        assert_eq!(blocks.map(|block| block.cid().to_string()).collect::<Vec<_>>(), expected);
        car
    };
    let in_process = check();
    let daemon = sandbox.daemon();
    assert!(check() == in_process, "through the socket");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn an_archive_may_have_several_roots() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    sandbox.write("other", "another root");
    let second = sandbox.ok(&["add", "-Q", "other"]);
    let car = sandbox.run(&["dag", "export", TREE, &second, HELLO]).stdout;
    let other = Sandbox::new();
    other.write("both.car", &car);
    let told = other.ok(&["dag", "import", "--stats", "both.car"]);
    let pinned = |cid: &str| format!("Pinned root\t{cid}\tsuccess\n");
    let (tree, file, hello) = (pinned(TREE), pinned(&second), pinned(HELLO));
    assert_eq!(
        told,
        format!("{tree}{file}{hello}Imported 5 blocks (195 bytes)"),
        "each block once"
    );
    let told = other.ok(&["dag", "import", "--json", "--progress=true", "both.car"]);
    assert!(told.contains("{\"Progress\":195}"), "{told}");
}
