//! Directories: the CIDs of spec 12 §1, §3, §4, and what of a real tree is taken.

use std::cell::RefCell;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use cidfs::block::Cid;
use cidfs::codec::node::{Metadata, Node};
use cidfs::store::BlockStore;
use cidfs::testkit::store::TestStore;
use cidfs::unixfs::import::{
    DEPTH_MAX, Follow, HamtEstimate, ImportError, ImportOptions, Profile, Progress, TreeBuilder,
    content_len, import_paths,
};
use tempfile::TempDir;

use super::import::{key_stream, options};

fn quiet(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn import(path: &Path, options: &ImportOptions) -> Result<Cid, ImportError> {
    import_paths(&[path], options, None, &quiet).map(|roots| {
        assert_eq!(roots.len(), 1);
        roots[0].cid
    })
}

fn check(path: &Path, flags: &str, cid: &str) {
    assert_eq!(import(path, &options(flags)).unwrap().to_string(), cid, "{flags}");
}

/// Imports names with one content through the builder of streams.
fn named(names: &[Vec<u8>], profile: Profile, threads: usize) -> Cid {
    let options = ImportOptions { profile, threads, wrap: true, ..ImportOptions::default() };
    let mut tree = TreeBuilder::new(&options, None, &quiet).unwrap();
    for name in names {
        tree.file(name, &b"x"[..], Metadata::default()).unwrap();
    }
    tree.finish().unwrap()[0].cid
}

/// The directory d of spec 12 §3.
fn directory_d() -> TempDir {
    let temp = TempDir::new().unwrap();
    let d = temp.path().join("d");
    fs::create_dir_all(d.join("sub")).unwrap();
    fs::write(d.join("hello.txt"), "hello world\n").unwrap();
    symlink("hello.txt", d.join("link")).unwrap();
    temp
}

#[test]
fn directory_d_under_each_flag() {
    let temp = directory_d();
    let d = temp.path().join("d");
    check(&d, "", "QmSGuAmMcrJoUhjD2air2WUGVVJ4KCdhnXqLk6qwKN5jqN");
    check(&d, "--empty-dirs=false", "Qmaq1mM9DJsHzDUsW8WYAqNGxnxWzdbNTL3LvxnqqmMA1N");
    let v1 = "bafybeih2ywvenqkloyk4m47rbkgn2pc7rutkz6ws3utt6f3cn3kv3i245u";
    check(&d, "--cid-version=1", v1);
    check(&d, "--profile=unixfs-v1-2025", v1);
}

#[test]
fn events_are_what_kubo_prints() {
    let temp = directory_d();
    let d = temp.path().join("d");
    let lines = |flags: &str| {
        let lines = RefCell::new(Vec::new());
        let hear = |event: Progress<'_>| {
            if let Progress::Added { name, cid, .. } = event {
                lines.borrow_mut().push((String::from_utf8(name.to_vec()).unwrap(), *cid));
            }
            ControlFlow::Continue(())
        };
        let roots = import_paths(&[&d], &options(flags), None, &hear).unwrap();
        let mut lines = lines.into_inner();
        assert_eq!(lines.last().unwrap().1, roots[0].cid, "the root comes last");
        lines.sort();
        lines.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(lines(""), ["d", "d/hello.txt", "d/link", "d/sub"]);
    assert_eq!(lines("-w"), ["", "d", "d/hello.txt", "d/link", "d/sub"]);
    assert_eq!(content_len(&[&d], &options("").selection).unwrap(), 12);
}

#[test]
fn empty_directories_and_symlinks_of_the_spec() {
    let temp = TempDir::new().unwrap();
    let path = |name: &str| temp.path().join(name);
    fs::create_dir(path("empty")).unwrap();
    check(&path("empty"), "", "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn");
    let v1 = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";
    check(&path("empty"), "--cid-version=1", v1);
    check(&path("empty"), "--inline", "bafyaabakaieac");
    let kept = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";
    check(&path("empty"), "--empty-dirs=false", kept);
    symlink("foo", path("bar")).unwrap();
    check(&path("bar"), "", "QmTB8BaCJdCH5H3k7GrxJsxgDNmNYGGR71C58ERkivXoj5");
    fs::create_dir(path("both")).unwrap();
    symlink("foo", path("both/bar")).unwrap();
    fs::write(path("both/foo"), "content\n").unwrap();
    check(&path("both"), "", "QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt");
}

#[test]
fn a_directory_that_holds_only_empty_ones_stays() {
    let temp = TempDir::new().unwrap();
    fs::create_dir_all(temp.path().join("a/b/c")).unwrap();
    fs::create_dir_all(temp.path().join("want/b")).unwrap();
    let skipping = import(&temp.path().join("a"), &options("--empty-dirs=false")).unwrap();
    assert_eq!(skipping, import(&temp.path().join("want"), &options("")).unwrap());
}

#[test]
fn ipip_499_directories() {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz01234567890-_";
    let check = |profile: Profile, seed: &str, count: usize, len: usize, last: usize, cid: &str| {
        let mut stream = &key_stream(seed, (count - 1) * len + last)[..];
        let mut names = Vec::new();
        while !stream.is_empty() {
            let len = if stream.len() == last { last } else { len };
            let (name, rest) = stream.split_at(len);
            names.push(name.iter().map(|&byte| ALPHABET[usize::from(byte) % 39]).collect());
            stream = rest;
        }
        assert_eq!(names.len(), count);
        assert_eq!(named(&names, profile.clone(), 0).to_string(), cid, "{seed} {count} {last}");
        names.reverse();
        assert_eq!(named(&names, profile, 1).to_string(), cid, "the order of arrival is no matter");
    };
    let (v0, v1) = (Profile::unixfs_v0_2015, Profile::unixfs_v1_2025);
    let seed = "hamt-unixfs-v0-2015";
    check(v0(), seed, 4096, 30, 30, "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN");
    check(v0(), seed, 4033, 31, 31, "QmeMiJzmhpJAUgynAcxTQYek5PPKgdv3qEvFsdV3XpVnvP");
    let seed = "hamt-unixfs-v1-2025";
    let basic = "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4";
    check(v1(), seed, 4766, 11, 21, basic);
    let hamt = "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu";
    check(v1(), seed, 4766, 11, 22, hamt);
}

#[test]
fn more_links_than_allowed_shard_at_every_fanout() {
    let names: Vec<_> = (1..=1000).map(|n| format!("{n}.txt").into_bytes()).collect();
    let shard = |fanout| {
        let profile = Profile {
            hamt_estimate: HamtEstimate::Disabled,
            dir_links_max: 999,
            hamt_fanout: fanout,
            ..Profile::default()
        };
        let options = ImportOptions { profile, wrap: true, ..ImportOptions::default() };
        let store = Arc::new(TestStore::default());
        let mut tree = TreeBuilder::new(&options, Some(store.clone()), &quiet).unwrap();
        for name in &names {
            tree.file(name, &b"x"[..], Metadata::default()).unwrap();
        }
        let root = tree.finish().unwrap().remove(0);
        match Node::decode(&store.get(&root.cid).unwrap().unwrap()).unwrap() {
            Node::Shard(shard) => shard.fanout(),
            other => panic!("{other:?}"),
        }
    };
    for fanout in [8, 16, 256, 1024] {
        assert_eq!(shard(fanout), fanout);
    }
    let under = Profile {
        hamt_estimate: HamtEstimate::Disabled,
        dir_links_max: 1000,
        ..Profile::default()
    };
    assert_eq!(named(&names, under, 0), named(&names, Profile::default(), 0), "1000 are not over");
}

#[test]
fn hidden_names_and_ignore_rules() {
    let temp = TempDir::new().unwrap();
    let t = temp.path().join("t");
    fs::create_dir_all(t.join("keep/.git")).unwrap();
    fs::create_dir_all(t.join("build")).unwrap();
    for name in ["a.txt", "b.log", ".hidden", "keep/.git/x", "keep/c.log", "keep/d", "build/o"] {
        fs::write(t.join(name), name).unwrap();
    }
    let names = |options: &ImportOptions| {
        let names = RefCell::new(Vec::new());
        let hear = |event: Progress<'_>| {
            if let Progress::Added { name, .. } = event {
                names.borrow_mut().push(String::from_utf8(name.to_vec()).unwrap());
            }
            ControlFlow::Continue(())
        };
        import_paths(&[&t], options, None, &hear).unwrap();
        let mut names = names.into_inner();
        names.sort();
        names.join(" ")
    };
    let check = |flags: &str, want: &str| assert_eq!(names(&options(flags)), want, "{flags}");
    check("", "t t/a.txt t/b.log t/build t/build/o t/keep t/keep/c.log t/keep/d");
    check(
        "--hidden",
        "t t/.hidden t/a.txt t/b.log t/build t/build/o t/keep t/keep/.git t/keep/.git/x \
         t/keep/c.log t/keep/d",
    );
    check("--ignore=*.log --ignore=build/", "t t/a.txt t/keep t/keep/d");
    check("--ignore=/*.log --ignore=build", "t t/a.txt t/keep t/keep/c.log t/keep/d");
    check(
        "--ignore=*.log --ignore=!c.log --ignore=build",
        "t t/a.txt t/keep t/keep/c.log t/keep/d",
    );
    let rules = temp.path().join("rules");
    fs::write(&rules, "# not these\n*.log\nkeep/d\n").unwrap();
    let mut by_file = options("--ignore=build");
    by_file.selection.ignore_rules = Some(rules.clone());
    assert_eq!(names(&by_file), "t t/a.txt t/keep");
    by_file.selection.ignore_rules = Some(rules.with_extension("absent"));
    assert!(matches!(import(&t, &by_file), Err(ImportError::Ignore(_))));
}

#[test]
fn links_are_kept_or_followed() {
    let temp = TempDir::new().unwrap();
    let path = |name: &str| temp.path().join(name);
    fs::create_dir_all(path("real/in")).unwrap();
    fs::write(path("real/in/f"), "f").unwrap();
    symlink("in", path("real/also")).unwrap();
    symlink("real", path("arg")).unwrap();
    let with = |follow: Follow, path: &Path| {
        let mut options = options("");
        options.selection.follow = follow;
        import(path, &options)
    };
    assert_ne!(
        with(Follow::Never, &path("arg")).unwrap(),
        with(Follow::Never, &path("real")).unwrap()
    );
    assert_eq!(
        with(Follow::Arguments, &path("arg")).unwrap(),
        with(Follow::Never, &path("real")).unwrap()
    );
    fs::create_dir_all(path("want/in")).unwrap();
    fs::create_dir_all(path("want/also")).unwrap();
    fs::write(path("want/in/f"), "f").unwrap();
    fs::write(path("want/also/f"), "f").unwrap();
    let want = with(Follow::Never, &path("want")).unwrap();
    assert_eq!(with(Follow::Always, &path("real")).unwrap(), want);
    symlink("..", path("real/in/up")).unwrap();
    assert!(with(Follow::Never, &path("real")).is_ok());
    assert!(matches!(with(Follow::Always, &path("real")), Err(ImportError::Loop { .. })));
}

#[test]
fn metadata_of_files_directories_and_links() {
    let temp = TempDir::new().unwrap();
    let t = temp.path().join("t");
    fs::create_dir(&t).unwrap();
    fs::write(t.join("f"), "f").unwrap();
    symlink("f", t.join("l")).unwrap();
    fs::set_permissions(t.join("f"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(&t, fs::Permissions::from_mode(0o750)).unwrap();
    let stored = |flags: &str| {
        let store = Arc::new(TestStore::default());
        let sink = Some(store.clone() as Arc<dyn BlockStore>);
        let root = import_paths(&[&t], &options(flags), sink, &quiet).unwrap().remove(0).cid;
        let node = |cid: &Cid| Node::decode(&store.get(cid).unwrap().unwrap()).unwrap();
        let Node::Directory(dir) = node(&root) else { panic!("a directory") };
        let below = |name: &str| match node(&dir.get(name.as_bytes()).unwrap().cid) {
            Node::File(file) => file.metadata,
            Node::Symlink(link) => link.metadata,
            other => panic!("{other:?}"),
        };
        (dir.metadata, below("f"), below("l"))
    };
    let (dir, file, link) = stored("--preserve-mode --preserve-mtime --cid-version=1");
    assert_eq!((dir.mode, file.mode, link.mode), (Some(0o750), Some(0o4711), None));
    let stat = fs::metadata(t.join("f")).unwrap();
    let mtime = file.mtime.unwrap();
    assert_eq!((mtime.seconds, i64::from(mtime.nanos)), (stat.mtime(), stat.mtime_nsec()));
    assert!(dir.mtime.is_some() && link.mtime.is_some());
    let (dir, file, link) = stored("--preserve-mode --mode=0600 --mtime=5");
    assert_eq!((dir.mode, file.mode, link.mode), (Some(0o600), Some(0o600), None));
    assert!([dir, file, link].iter().all(|metadata| metadata.mtime.unwrap().seconds == 5));
    let (dir, file, link) = stored("");
    assert_eq!([dir, file, link], [Metadata::default(); 3]);
}

#[test]
fn what_cannot_be_imported_is_named() {
    let temp = TempDir::new().unwrap();
    let t = temp.path().join("t");
    fs::create_dir(&t).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(t.join("sock")).unwrap();
    let error = import(&t, &options("")).unwrap_err();
    assert!(matches!(error, ImportError::Special { kind: "socket", .. }), "{error}");
    assert!(error.to_string().contains("t/sock"), "{error}");
    let ignoring = options("--ignore=sock");
    assert!(import(&t, &ignoring).is_ok());
    let error = import(&temp.path().join("absent"), &options("")).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    let twice = import_paths(&[&t, &t], &ignoring, None, &quiet).unwrap_err();
    assert!(matches!(twice, ImportError::Duplicate { .. }), "{twice}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("big");
    for flags in ["", "--chunker=buzhash"] {
        fs::write(&path, vec![1; 40_000_000]).unwrap();
        let write_once = RefCell::new(false);
        let hear = |_: Progress<'_>| {
            if !write_once.replace(true) {
                fs::write(&path, vec![2; 40_000_000]).unwrap();
            }
            ControlFlow::Continue(())
        };
        let error = import_paths(&[&path], &options(flags), None, &hear).unwrap_err();
        assert!(matches!(error, ImportError::Changed { .. }), "{flags}: {error}");
        assert!(error.to_string().contains("big"), "{error}");
    }
}

#[test]
fn a_file_that_vanishes_is_named() {
    let temp = TempDir::new().unwrap();
    let t = temp.path().join("t");
    fs::create_dir(&t).unwrap();
    fs::write(t.join("a"), vec![1; 3_000_000]).unwrap();
    fs::write(t.join("b"), "b").unwrap();
    let hear = |_: Progress<'_>| {
        fs::remove_file(t.join("b")).ok();
        ControlFlow::Continue(())
    };
    let error = import_paths(&[&t], &options(""), None, &hear).unwrap_err();
    assert!(matches!(&error, ImportError::Io { path, .. } if path.ends_with("t/b")), "{error}");
}

#[test]
fn the_caller_can_cancel() {
    let temp = directory_d();
    let stop = |_: Progress<'_>| ControlFlow::Break(());
    let error = import_paths(&[temp.path().join("d")], &options(""), None, &stop).unwrap_err();
    assert!(matches!(error, ImportError::Cancelled));
}

#[test]
fn a_full_store_is_an_error() {
    let temp = directory_d();
    let store = Arc::new(TestStore::default());
    store.set_full(true);
    let d = temp.path().join("d");
    let error = import_paths(&[d], &options(""), Some(store), &quiet).unwrap_err();
    assert!(matches!(error, ImportError::Store(_)), "{error}");
}

#[test]
fn holes_are_zeros() {
    let temp = TempDir::new().unwrap();
    let (sparse, full) = (temp.path().join("sparse"), temp.path().join("full"));
    let mut content = vec![0; 9_000_001];
    content[3_000_000..3_000_100].fill(7);
    content[8_999_999..].fill(9);
    fs::write(&full, &content).unwrap();
    let file = fs::File::create(&sparse).unwrap();
    file.set_len(content.len() as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 100], 3_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[9; 2], 8_999_999).unwrap();
    for flags in ["", "--profile=unixfs-v1-2025", "--trickle", "--chunker=size-1000"] {
        let options = options(flags);
        assert_eq!(import(&sparse, &options).unwrap(), import(&full, &options).unwrap(), "{flags}");
    }
    let huge = temp.path().join("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let store = Arc::new(TestStore::default());
    let sink = Some(store.clone() as Arc<dyn BlockStore>);
    let root = import_paths(&[&huge], &options("--profile=unixfs-v1-2025"), sink, &quiet).unwrap();
    assert_eq!(store.block_count(), 3, "a terabyte of zeros: one leaf, one node of each level");
    assert!(root[0].dag_size > 1 << 40);
}

#[test]
fn entries_in_any_order_make_one_tree() {
    let temp = directory_d();
    let want = import(&temp.path().join("d"), &options("")).unwrap();
    let mut tree = TreeBuilder::new(&options(""), None, &quiet).unwrap();
    let none = Metadata::default;
    tree.directory(b"d/sub", none()).unwrap();
    tree.symlink(b"d/link", b"hello.txt", none()).unwrap();
    tree.directory(b"d", none()).unwrap();
    tree.file(b"d/hello.txt", &b"hello world\n"[..], none()).unwrap();
    let roots = tree.finish().unwrap();
    assert_eq!((roots.len(), roots[0].cid, &roots[0].name[..]), (1, want, &b"d"[..]));
}

#[test]
fn bad_paths_of_a_stream_are_refused() {
    let none = Metadata::default;
    for bad in ["/a", "a//b", "a/", "a/../b", ".", "a/.", "a\0b", &"n".repeat(256)] {
        let mut tree = TreeBuilder::new(&options(""), None, &quiet).unwrap();
        let error = tree.file(bad.as_bytes(), &b""[..], none()).unwrap_err();
        assert!(matches!(error, ImportError::Name { .. }), "{bad}: {error}");
    }
    let mut tree = TreeBuilder::new(&options(""), None, &quiet).unwrap();
    tree.file(b"a", &b""[..], none()).unwrap();
    for error in [
        tree.file(b"a", &b""[..], none()).unwrap_err(),
        tree.directory(b"a", none()).unwrap_err(),
        tree.file(b"a/b", &b""[..], none()).unwrap_err(),
    ] {
        assert!(matches!(error, ImportError::Duplicate { .. }), "{error}");
    }
    assert!(tree.symlink(b"l", b"", none()).is_err());
    let deep = vec!["d"; DEPTH_MAX + 1].join("/");
    let error = tree.directory(deep.as_bytes(), none()).unwrap_err();
    assert!(matches!(error, ImportError::TooDeep { .. }), "{error}");
}

#[test]
fn a_deep_tree_imports() {
    let temp = TempDir::new().unwrap();
    let deep = temp.path().join(vec!["d"; 1500].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "f").unwrap();
    let mut tree = TreeBuilder::new(&options(""), None, &quiet).unwrap();
    let path = vec!["d"; 1500].join("/") + "/f";
    tree.file(path.as_bytes(), &b"f"[..], Metadata::default()).unwrap();
    let want = tree.finish().unwrap()[0].cid;
    assert_eq!(import(&temp.path().join("d"), &options("")).unwrap(), want);
}
