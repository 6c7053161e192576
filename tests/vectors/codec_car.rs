//! CAR reading against the archives of kubo, boxo, go-car and the gateway suite, and the hostile
//! ones made for this project.

use std::path::{Path, PathBuf};

use cidfs::block::{Block, BlockError, cid_from_text};
use cidfs::codec::car::{CarError, CarReader, Section, write_header, write_section};
use cidfs::testkit::fixtures::shared_fixtures;

fn collect_cars(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_cars(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "car") {
            found.push(path);
        }
    }
}

fn open(path: &Path) -> Result<CarReader<std::fs::File>, CarError> {
    CarReader::new(std::fs::File::open(path).unwrap())
}

/// Reads up to the first error.
fn read(path: &Path) -> (Vec<Section>, Option<CarError>) {
    let mut sections = Vec::new();
    for section in open(path).unwrap() {
        match section {
            Ok(section) => sections.push(section),
            Err(error) => return (sections, Some(error)),
        }
    }
    (sections, None)
}

fn verify(section: &Section) -> Result<Block, BlockError> {
    Block::verify(section.cid, section.data.clone())
}

/// Archives that are broken on purpose; each has a test below.
const BROKEN: &[&str] = &[
    "badheaderlength.car",
    "badsectionlength.car",
    "sample-corrupt-pragma.car",
    "sample-v1-with-zero-len-section2.car",
    "big-block-a.car",
    "hash-mismatch-a.car",
];

#[test]
fn every_sound_archive_parses_and_every_block_verifies() {
    let Some(shared) = shared_fixtures() else { return };
    let mut paths = Vec::new();
    collect_cars(&shared, &mut paths);
    assert_eq!(paths.len(), 62);
    for path in paths {
        if BROKEN.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let (sections, error) = read(&path);
        assert!(error.is_none(), "{}: {error:?}", path.display());
        for section in &sections {
            let verified = verify(section);
            assert!(verified.is_ok(), "{}: {verified:?}", path.display());
        }
        check_expectations(&path, sections.len());
    }
}

/// Compares with the answers that lie beside an archive.
fn check_expectations(path: &Path, blocks: usize) {
    let Ok(text) = std::fs::read(path.with_extension("expected.json")) else { return };
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let reader = open(path).unwrap();
    assert_eq!(expected["car_version"], reader.version(), "{}", path.display());
    assert_eq!(expected["blocks"], blocks, "{}", path.display());
}

#[test]
fn malformed_headers_and_lengths_are_errors() {
    let Some(shared) = shared_fixtures() else { return };
    let open = |name: &str| open(&shared.join("go-car").join(name));
    for name in ["badheaderlength.car", "sample-corrupt-pragma.car"] {
        assert!(open(name).is_err(), "{name}");
    }
    let first = open("badsectionlength.car").unwrap().next();
    assert!(matches!(first, Some(Err(_))), "{first:?}");
}

#[test]
fn an_empty_section_ends_the_archive_with_an_error() {
    let Some(shared) = shared_fixtures() else { return };
    let (sections, error) = read(&shared.join("go-car/sample-v1-with-zero-len-section2.car"));
    assert_eq!(sections.len(), 20);
    assert!(sections.iter().all(|section| verify(section).is_ok()));
    assert!(matches!(error, Some(CarError::EmptySection { .. })), "{error:?}");
}

#[test]
fn a_lie_is_refused_and_the_rest_is_kept() {
    let Some(shared) = shared_fixtures() else { return };
    let (sections, error) = read(&shared.join("adversarial/hash-mismatch-a.car"));
    assert!(error.is_none(), "{error:?}");
    let refused: Vec<_> = sections.iter().filter_map(|section| verify(section).err()).collect();
    assert!(matches!(refused[..], [BlockError::Mismatch { .. }]), "{refused:?}");
    assert_eq!(sections.len(), 3);
}

#[test]
fn a_block_over_the_limit_is_refused() {
    let Some(shared) = shared_fixtures() else { return };
    let read = open(&shared.join("adversarial/big-block-a.car")).unwrap();
    let (sections, errors): (Vec<_>, Vec<_>) = read.partition(Result::is_ok);
    assert!(matches!(errors[..], [Err(CarError::BlockTooBig { .. })]), "{errors:?}");
    assert_eq!(sections.len(), 2, "the root and good.txt");
    assert!(sections.iter().flatten().all(|section| verify(section).is_ok()));
}

/// spec 12 §3: kubo's export of { hello.txt, link → hello.txt, sub/ }.
#[test]
fn an_export_of_kubo_is_read_and_written_byte_for_byte() {
    let hex = "3aa265726f6f747381d82a58250001701220fac5aa46c14b7615c673f10a8cdd3c5f8d26acfad2dd273f\
        17626ed55da35ced6776657273696f6e01bc0101701220fac5aa46c14b7615c673f10a8cdd3c5f8d26acfad2dd\
        273f17626ed55da35ced12330a2401551220a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d2\
        99a192a447120968656c6c6f2e747874180c122e0a240170122011eefe699ac128ee88670118cd126e0d21e776\
        10cd177fb13f32daf20eec1c5812046c696e6b180f122d0a240170122059948439065f29619ef41280cbb932be\
        52c56d99c5966b65e0111239f098bbef120373756218040a0208013001551220a948904f2f0f479b8f8197694b\
        30184b0d2ed1c1cd2a1ec0fb85d299a192a44768656c6c6f20776f726c640a330170122011eefe699ac128ee88\
        670118cd126e0d21e77610cd177fb13f32daf20eec1c580a0d0804120968656c6c6f2e74787428017012205994\
        8439065f29619ef41280cbb932be52c56d99c5966b65e0111239f098bbef0a020801";
    let archive = multibase::Base::Base16Lower.decode(hex).unwrap();
    let reader = CarReader::new(&archive[..]).unwrap();
    let root =
        cid_from_text("bafybeih2ywvenqkloyk4m47rbkgn2pc7rutkz6ws3utt6f3cn3kv3i245u").unwrap();
    assert_eq!(reader.roots(), [root]);
    let mut copy = Vec::new();
    write_header(&mut copy, reader.roots()).unwrap();
    let mut blocks = 0;
    for section in reader {
        write_section(&mut copy, &verify(&section.unwrap()).unwrap()).unwrap();
        blocks += 1;
    }
    assert_eq!(blocks, 4);
    assert_eq!(copy, archive);
}
