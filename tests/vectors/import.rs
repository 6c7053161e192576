//! Files: every CID of spec 12 §1, §2, §4, §5 and of the IPIP-499 table, flag by flag.

use std::io::Read;
use std::ops::ControlFlow;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use cidfs::block::HashFn;
use cidfs::codec::unixfs::Mtime;
use cidfs::testkit::fixtures::shared_fixtures;
use cidfs::unixfs::import::{
    AddressFlags, Chunker, INLINE_LIMIT_DEFAULT, ImportOptions, ImportedRoot, Layout, Profile,
    import_stream,
};
use sha2::{Digest, Sha256};

/// Tells whether the slow tests run: those that hash gigabytes.
fn runs_slow_tests() -> bool {
    let full = crate::is_full_run();
    if !full {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("test");
        crate::report(&format!("NOT RUN: {name}: it takes long; set CIDFS_TESTS=full"));
    }
    full
}

/// The input of the IPIP-499 vectors: a `ChaCha20` key stream whose key is the hash of a seed.
pub(super) struct KeyStream(ChaCha20);

impl KeyStream {
    pub(super) fn new(seed: &str) -> Self {
        Self(ChaCha20::new(&Sha256::digest(seed), &[0; 12].into()))
    }
}

impl Read for KeyStream {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        out.fill(0);
        self.0.apply_keystream(out);
        Ok(out.len())
    }
}

pub(super) fn key_stream(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    KeyStream::new(seed).read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads kubo's flags; the profile is kubo's default unless the first flag names another.
pub(super) fn options(flags: &str) -> ImportOptions {
    let mut options =
        ImportOptions { profile: Profile::unixfs_v0_2015(), ..ImportOptions::default() };
    let mut address = AddressFlags::default();
    for flag in flags.split_whitespace() {
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        let profile = &mut options.profile;
        match name {
            "--profile" => *profile = Profile::by_name(value).unwrap(),
            "--raw-leaves" => address.raw_leaves = Some(value != "false"),
            "--cid-version" => {
                address.cid_version = Some(value.parse::<u64>().unwrap().try_into().unwrap());
            }
            "--hash" => address.hash = Some(HashFn::by_name(value).unwrap()),
            "--inline" => profile.inline_limit = Some(INLINE_LIMIT_DEFAULT),
            "--trickle" => profile.layout = Layout::Trickle,
            "--chunker" => profile.chunker = value.parse().unwrap(),
            "--max-file-links" => profile.links_max = value.parse().unwrap(),
            "--mode" => options.metadata.mode = Some(u32::from_str_radix(value, 8).unwrap()),
            "--mtime" => {
                let seconds = value.parse().unwrap();
                options.metadata.mtime = Some(Mtime { seconds, nanos: 0 });
            }
            "--mtime-nsecs" => {
                options.metadata.mtime.as_mut().unwrap().nanos = value.parse().unwrap();
            }
            "--preserve-mode" => options.metadata.preserve_mode = true,
            "--preserve-mtime" => options.metadata.preserve_mtime = true,
            "--empty-dirs" => options.skip_empty_dirs = value == "false",
            "--hidden" => options.selection.hidden = true,
            "--ignore" => options.selection.ignore.push(value.to_owned()),
            "-w" => options.wrap = true,
            _ => panic!("{flag}"),
        }
    }
    address.metadata = options.metadata.any();
    options.profile = options.profile.with_flags(address).unwrap();
    options
}

fn root(data: impl Read, flags: &str) -> ImportedRoot {
    let quiet = |_: cidfs::unixfs::import::Progress<'_>| ControlFlow::Continue(());
    let mut roots = import_stream(data, Some("h"), &options(flags), None, &quiet).unwrap();
    assert_eq!(roots.len(), 1);
    roots.remove(0)
}

fn check(data: impl Read, flags: &str, cid: &str) {
    assert_eq!(root(data, flags).cid.to_string(), cid, "{flags}");
}

const V1: &str = "--profile=unixfs-v1-2025";
const HELLO: &[u8] = b"hello world\n";

#[test]
fn tiny_files() {
    let check = |data: &str, flags: &str, cid: &str| check(data.as_bytes(), flags, cid);
    check("", "", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
    let v1_empty = "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y";
    check("", "--cid-version=1 --raw-leaves=false", v1_empty);
    check("", "--inline", "bafyaabqkaqeaegaa");
    check("", V1, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    check("", "--profile=unixfs-v1-2025 --inline", "bafkqaaa");
    check("", "--trickle", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
    check("hello world", "", "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD");
    check("hello world", V1, "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
    check("content\n", "", "Qme2y5HA5kvo2jAx13UsnV5bQJVijiAJCPvaW3JGQWhvJZ");
    let hello_v1 = "bafybeicg2rebjoofv4kbyovkw7af3rpiitvnl6i7ckcywaq6xjcxnc2mby";
    check("hello world\n", "--cid-version=1 --raw-leaves=false", hello_v1);
}

#[test]
fn one_file_under_each_flag() {
    let check = |flags: &str, cid: &str| check(HELLO, flags, cid);
    check("", "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o");
    let raw = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4";
    check("--raw-leaves", raw);
    check("--cid-version=1", raw);
    check("--inline", "bafyaafakcieaeeqmnbswy3dpeb3w64tmmqfbqda");
    check("--inline --cid-version=1", "bafkqaddimvwgy3zao5xxe3debi");
    check("--trickle", "QmVib14uvPnCP73XaCDpwugRuwfTsVbGyWbatHAmLSdZUS");
    check("-w", "QmWPAG26NVbKvgctSCRnivGzFhgzMcBoJgRFtUUfrLMzam");
    check("-w --cid-version=1", "bafybeidllwfg5mlm5kecyagypx2p5fxswi4dy2pqzusqniw2dr5uqsd5sq");
    check(
        "--mode=0755 --mtime=1700000000 --mtime-nsecs=123456789",
        "QmXawsuHEy1uuRsKS2bYT1SsfyQaESvF5RPPU1mdsvnBe6",
    );
    check(
        "--mode=0755 --mtime=1700000000 --mtime-nsecs=123456789 --cid-version=1",
        "bafybeiejmk5adohgr2euenhemwpsosg6ez7mslbzcb2bbm6rkgsuvfxhm4",
    );
    check(
        "--cid-version=1 --mode=0644",
        "bafybeibon6ytb4v2gyzwdbm26f2noxwlnbq7sapjljp4u5f42xqrragcsu",
    );
    check(
        "--cid-version=1 --mtime=1700000000",
        "bafybeifwvqn5os6nzxqhfizovyijp4krxp24fswlqhw4gijob5uzdnlttq",
    );
    assert_eq!(root(HELLO, "").dag_size, 20, "the block's length");
    assert_eq!(root(HELLO, "-w").name, b"");
    assert_eq!(root(HELLO, "").name, b"h");
}

#[test]
fn a_single_leaf_with_metadata_is_dag_pb_even_where_leaves_are_raw() {
    let with = |len: usize, raw: bool| {
        let mut options = options("--cid-version=1 --mode=0644");
        options.profile.raw_leaves = raw;
        let quiet = |_: cidfs::unixfs::import::Progress<'_>| ControlFlow::Continue(());
        let data = vec![1; len];
        import_stream(&data[..], None, &options, None, &quiet).unwrap().remove(0).cid
    };
    assert_eq!(with(10, true), with(10, false));
    assert_eq!(with(262_144, true), with(262_144, false));
    assert_ne!(with(262_145, true), with(262_145, false));
    assert_eq!(with(10, true).codec(), cidfs::block::codecs::DAG_PB);
}

#[test]
fn a_million_zeros_under_each_flag() {
    let check = |flags: &str, cid: &str| check(std::io::repeat(0).take(1_048_577), flags, cid);
    check("", "Qmeb988ZjF9Ui6AVPR8Sjg5sAv1B6DauS5rUjCoNs7ftZ1");
    check("--cid-version=1", "bafybeihhq4imxfkfucfxjbnqvrvzdknmfbzvxaivz7jzdnumfkabdbq3yq");
    check(V1, "bafybeihd4yzq7n5umhjngdum4r6k2to7egxfkf2jz6thvwzf6djus22cmq");
    check("--trickle", "QmZh6F2zhsWtNFJTbBrET16xzB5AX5zteB5j7gCk4BZxVJ");
    check("--trickle --raw-leaves", "QmdvSLhTBGEb8mGPsa7TkHUwbXPM89LAjvD59ayBfptpP5");
    check("--chunker=buzhash", "QmdtbBYvXw3bbHzcFS3pnksbWvKxSiYvcBtSa8Ch7ESyid");
    check("--hash=blake2b-256", "bafykbzacedb4so2pv2oxdmtbzurhb2mlfx6xnev7444ia37aajamckqpenc5e");
    check("--hash=blake3", "bafyb4ie3aysg44as4bblgcxwsnlyiiikuy7derugrtpr5nu2zk7xxnqxuy");
}

#[test]
fn chunkers_and_layouts() {
    let data = key_stream("buz", 3_000_000);
    let check = |flags: &str, cid: &str| check(&data[..], flags, cid);
    check("", "QmfKDg2Xt78UYfERbsoEjo3y8YAzfA7v8htYSttUbqETud");
    check("--cid-version=1", "bafybeiaf2wmxs2q3ddycsum7dfsg5igfdu2kxcndojdx4ih7z2dr3gt3ou");
    check("--chunker=buzhash", "QmTv21atp9vqyQv4Ehawo7E5yXC51y7o4PwFR6C6WiESg6");
    check("--chunker=rabin", "Qme1cqnptYgqH9nPpQjCG4p3mmcdGChtkewpYWmVCpC1iJ");
    let small = "--chunker=rabin-16384-32768-65536";
    check(small, "QmQC6qB49indpwBsSaFNehaLLyh76h9dWDRLA9BaF8MQYv");
    check("--trickle", "QmPu3bpN7qu51KgC4GMWueG5xku6b4tTx7UM1yRqF9TSy6");
    check(
        "--trickle --chunker=size-1024 --max-file-links=8",
        "QmPUEoXF4jnP6w7iFehSB7k1179rmzCfU3WBYtMs3rjgbc",
    );
}

#[test]
fn chunk_lengths() {
    let data = key_stream("buz", 3_000_000);
    let lens = |text: &str| {
        let chunker: Chunker = text.parse().unwrap();
        let mut rest = &data[..];
        let mut lens = Vec::new();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunker.cut(rest));
            lens.push(chunk.len());
            rest = after;
        }
        lens
    };
    let buzhash = [
        266_135, 450_131, 250_571, 175_213, 145_730, 524_288, 176_865, 196_841, 150_937, 293_402,
        343_768, 26_119,
    ];
    assert_eq!(lens("buzhash"), buzhash);
    let rabin = lens("rabin");
    assert_eq!(rabin.len(), 11);
    assert_eq!(rabin[..5], [181_897, 147_039, 200_078, 91_875, 393_216]);
    let small = lens("rabin-16384-32768-65536");
    assert_eq!(small.len(), 77);
    assert_eq!(small[..5], [20_183, 23_109, 27_970, 37_508, 40_041]);
}

#[test]
fn ipip_499_files() {
    let check = |profile: &str, seed: &str, len: u64, cid: &str| {
        check(KeyStream::new(seed).take(len), &format!("--profile={profile}"), cid);
    };
    let v0 = "unixfs-v0-2015";
    check(v0, "chunk-v0-seed", 262_144, "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE");
    check(v0, "chunk-v0-seed", 262_145, "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ");
    // Made once: the cipher is slow in a debug build.
    let row = key_stream("v0-seed", 174 * 262_144 + 1);
    let full = "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2";
    self::check(&row[..174 * 262_144], "", full);
    self::check(&row[..], "", "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW");
    let v1 = "unixfs-v1-2025";
    let one = "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta";
    check(v1, "chunk-v1-seed", 1_048_576, one);
    let two = "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64";
    check(v1, "chunk-v1-seed", 1_048_577, two);
}

#[test]
fn ipip_499_files_of_a_gibibyte() {
    if !runs_slow_tests() {
        return;
    }
    let check = |len: u64, cid: &str| check(KeyStream::new("v1-2025-seed").take(len), V1, cid);
    let full = 1024 * 1_048_576;
    check(full, "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm");
    check(full + 1, "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe");
}

#[test]
fn the_profiles_table_of_the_fixtures() {
    let Some(shared) = shared_fixtures() else { return };
    let text = std::fs::read_to_string(shared.join("ipip-499/profiles.json")).unwrap();
    let table: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut checked = 0;
    for name in ["unixfs-v0-2015", "unixfs-v1-2025"] {
        let (entry, profile) = (&table[name], Profile::by_name(name).unwrap());
        assert_eq!(entry["cid_version"], u64::from(profile.cid_version));
        assert_eq!(entry["raw_leaves"], profile.raw_leaves);
        assert_eq!(entry["max_links"], profile.links_max);
        assert_eq!(entry["hamt_fanout"], profile.hamt_fanout);
        assert_eq!(
            profile.chunker,
            Chunker::Size(usize::try_from(entry["chunk"].as_u64().unwrap()).unwrap())
        );
        for (what, cid) in entry["cids"].as_object().unwrap() {
            let flags = format!("--profile={name}");
            let cid = cid.as_str().unwrap();
            match what.split_once(" bytes, seed ") {
                Some((len, seed)) => {
                    check(KeyStream::new(seed).take(len.parse().unwrap()), &flags, cid);
                }
                None => check(&b"hello world"[..], &flags, cid),
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 6);
}
