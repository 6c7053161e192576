//! `store`: archives that are used where they lie.

use super::sandbox::{HELLO, Sandbox, TREE, vector_tree};

/// Returns a sandbox that has nothing but `cars/tree.car`, the archive of the vectors.
fn with_archive() -> Sandbox {
    let source = Sandbox::new();
    vector_tree(&source);
    source.ok(&["add", "-rQ", "d"]);
    let car = source.run(&["dag", "export", TREE]).stdout;
    let sandbox = Sandbox::new();
    sandbox.write("cars/tree.car", car);
    sandbox
}

fn real(sandbox: &Sandbox, name: &str) -> String {
    let dir = sandbox.path("").canonicalize().unwrap();
    dir.join(name).to_str().unwrap().to_owned()
}

#[test]
fn an_archive_is_used_until_it_is_removed() {
    let sandbox = with_archive();
    let path = real(&sandbox, "cars/tree.car");
    let bytes = std::fs::read(&path).unwrap();
    let told = sandbox.ok(&["store", "add-pack", "cars/tree.car"]);
    assert_eq!(told, format!("using {path}: 4 blocks (183 B)"));
    assert_eq!(sandbox.ok(&["cat", &format!("{TREE}/hello.txt")]), "hello world");
    assert_eq!(sandbox.ok(&["store", "ls-packs"]), format!("archive 4 blocks 183 B {path}"));
    assert_eq!(sandbox.ok(&["store", "ls-packs", "-q"]), path);
    let json = sandbox.ok(&["store", "ls-packs", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["Packs"][0]["NumBlocks"], 4);
    assert!(sandbox.ok(&["repo", "stat"]).contains("NumObjects: 4"));
    sandbox.ok(&["repo", "verify"]);
    sandbox.fails(&["block", "rm", HELLO], 1, &["store rm-pack", &path]);
    let ours = std::fs::read_dir(sandbox.repo().join("packs")).unwrap();
    let ours =
        ours.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("car".as_ref()));
    assert_eq!(ours.count(), 0, "nothing was copied");
    assert_eq!(sandbox.ok(&["pin", "add", TREE]), format!("pinned {TREE} recursively"));

    let run = sandbox.run(&["store", "rm-pack", "cars/none.car", "cars/tree.car"]);
    assert_eq!(
        (run.code, String::from_utf8(run.stdout).unwrap()),
        (1, format!("no longer using {path}\n"))
    );
    assert!(run.stderr.contains("cars/none.car: not used in place"), "{}", run.stderr);
    sandbox.fails(&["cat", HELLO], 1, &["is not here"]);
    sandbox.fails(&["store", "rm-pack", "cars/tree.car"], 1, &["not used in place", "ls-packs"]);
    assert_eq!(sandbox.ok(&["store", "ls-packs"]), "");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file is left alone");
}

#[test]
fn a_mount_reads_from_an_archive_in_a_running_daemon() {
    let sandbox = with_archive();
    std::fs::create_dir(sandbox.path("m")).unwrap();
    let _daemon = sandbox.daemon();
    sandbox.ok(&["store", "add-pack", "cars"]);
    sandbox.ok(&["mount", "/ipfs", "m"]);
    let read = std::fs::read(sandbox.path(format!("m/{TREE}/hello.txt"))).unwrap();
    assert_eq!(read, b"hello world\n");
    // An archive that we show ourselves would have to be read to be read.
    let shown = format!("m/{}", sandbox.ok(&["add", "-Q", "cars/tree.car"]));
    sandbox.fails(&["store", "add-pack", &shown], 1, &["below a mount of cidfs", "dag import"]);
    sandbox.ok(&["umount", "m"]);
}

#[test]
fn a_mount_that_came_to_lie_over_an_archive_is_not_asked_for_it() {
    let sandbox = with_archive();
    sandbox.ok(&["store", "add-pack", "cars/tree.car"]);
    let other = with_archive();
    let cid = other.ok(&["add", "-rQ", "cars"]);
    std::fs::rename(sandbox.path("cars"), sandbox.path("away")).unwrap();
    std::fs::create_dir(sandbox.path("cars")).unwrap();
    let point = real(&sandbox, "cars");
    let _daemon = other.daemon();
    other.ok(&["mount", &format!("/ipfs/{cid}"), &point]);
    assert!(sandbox.path("cars/tree.car").try_exists().unwrap());
    let listed = sandbox.ok(&["store", "ls-packs"]);
    assert!(listed.contains("below a mount of cidfs"), "{listed}");
    other.ok(&["umount", &point]);
    std::fs::remove_dir(&point).unwrap();
    std::fs::rename(sandbox.path("away"), &point).unwrap();
    assert_eq!(sandbox.ok(&["cat", &format!("{TREE}/hello.txt")]), "hello world");
}

#[test]
fn a_directory_is_used_as_far_as_it_can_be() {
    let sandbox = with_archive();
    sandbox.write("cars/bad.car", b"\x05hello world, this is no archive");
    sandbox.write("cars/readme.txt", b"no archive, and not asked");
    let run = sandbox.run(&["store", "add-pack", "cars"]);
    assert_eq!(run.code, 1);
    for words in ["cars/bad.car cannot be used in place: not a CAR archive", "1 of 2 archives"] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    assert_eq!(sandbox.ok(&["store", "ls-packs", "-q"]), real(&sandbox, "cars/tree.car"));
    std::fs::create_dir(sandbox.path("none")).unwrap();
    sandbox.fails(&["store", "add-pack", "none"], 1, &["none", "no file *.car"]);
    sandbox.fails(&["store", "add-pack", "nowhere.car"], 1, &["nowhere.car", "No such file"]);
}

#[test]
fn an_archive_that_is_gone_is_named_with_what_to_do() {
    let sandbox = with_archive();
    let path = real(&sandbox, "cars/tree.car");
    sandbox.ok(&["store", "add-pack", &path]);
    std::fs::rename(&path, sandbox.path("moved.car")).unwrap();
    sandbox.fails(
        &["cat", HELLO],
        1,
        &[&path, "is not there any more", "store add-pack", "rm-pack"],
    );
    let listed = sandbox.ok(&["store", "ls-packs"]);
    assert!(listed.contains("(out of use: it is not there any more; add it again"), "{listed}");
    sandbox.fails(&["repo", "verify"], 1, &["1 blocks corrupt"]);
    sandbox.ok(&["store", "rm-pack", &path]);
    sandbox.ok(&["store", "add-pack", "moved.car"]);
    assert_eq!(sandbox.ok(&["cat", HELLO]), "hello world");
}

#[test]
fn a_block_that_is_not_what_it_claims_is_left_out_and_told() {
    let sandbox = with_archive();
    let mut car = std::fs::read(sandbox.path("cars/tree.car")).unwrap();
    let place = car.windows(12).position(|window| window == b"hello world\n").unwrap();
    car[place] ^= 1;
    sandbox.write("cars/tree.car", car);
    let run = sandbox.run(&["store", "add-pack", "cars/tree.car"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("1 sections were left out; the section at byte"), "{}", run.stderr);
    sandbox.fails(&["cat", HELLO], 1, &["is not here"]);
}
