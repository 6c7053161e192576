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
        assert!(told.contains("0000000001.idx.broken-1, which tells of a pack"), "{told}");
    }
    assert_eq!(sandbox.ok(&["add", "-rQ", "d"]), TREE);
    sandbox.ok(&["repo", "verify"]);
}
