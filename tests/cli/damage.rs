//! What the commands say when files of the repository are damaged or gone.

use super::sandbox::{Sandbox, TREE, vector_tree};

#[test]
fn verify_fails_as_long_as_what_went_with_a_pack_is_missed() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    sandbox.ok(&["repo", "verify"]);
    std::fs::remove_file(sandbox.repo().join("packs/0000000001.car")).unwrap();
    for _ in 0..2 {
        let run = sandbox.run(&["repo", "verify"]);
        assert_eq!(run.code, 1, "{}", run.stderr);
        assert!(run.stderr.contains("verify complete, 4 blocks corrupt"), "{}", run.stderr);
        let told = String::from_utf8(run.stdout).unwrap();
        assert!(told.contains("0000000001.idx.broken-1, which tells of a file"), "{told}");
    }
    assert_eq!(sandbox.ok(&["add", "-rQ", "d"]), TREE);
    sandbox.ok(&["repo", "verify"]);
}

#[test]
fn a_journal_of_which_nothing_is_left_stops_everything_until_somebody_decides() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    let journal = sandbox.repo().join("journal");
    let pins = std::fs::read(&journal).unwrap();
    for left in [&[][..], &vec![0; pins.len()]] {
        std::fs::write(&journal, left).unwrap();
        let words = ["nothing of it is left", "restore it from a backup", "write `no pins` into"];
        sandbox.fails(&["repo", "gc"], 1, &words);
        assert_eq!(std::fs::read(&journal).unwrap(), left);
    }
    std::fs::write(&journal, pins).unwrap();
    assert!(sandbox.ok(&["pin", "ls", "-q"]).contains(TREE));
    std::fs::write(&journal, "no pins\n").unwrap();
    assert_eq!(sandbox.ok(&["pin", "ls"]), "");
}
