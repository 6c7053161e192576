//! What is to be told to one peer of our wants: the last word for each block, in order.

use std::collections::{HashMap, VecDeque};

use crate::block::Cid;
use crate::codec::bitswap::{Want, WantKind};

/// Entries of one message: about 25 KB, and no more than peers remember (spec 05 §5).
const ENTRIES_MAX: usize = 512;

/// Wants and cancels that a peer has not been told yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    order: VecDeque<Cid>,
    by_cid: HashMap<Cid, Want>,
    /// Wants whose cancels are in `order`: a message has one word for each block, and boxo takes the cancel.
    again: HashMap<Cid, Want>,
}

impl Outbox {
    /// Adds an entry; it takes the place of an earlier one for the same block, but for that a question
    /// does not take that of a request.
    pub(super) fn push(&mut self, want: Want) {
        if want.is_cancel {
            self.again.remove(&want.cid);
        } else if let Some(again) = self.again.get_mut(&want.cid) {
            if want.kind == WantKind::Block || again.kind == WantKind::Have {
                *again = want;
            }
            return;
        }
        match self.by_cid.get_mut(&want.cid) {
            None => {
                self.order.push_back(want.cid);
                self.by_cid.insert(want.cid, want);
            }
            Some(known) => {
                let is_asked = !known.is_cancel && known.kind == WantKind::Block;
                if want.is_cancel || want.kind == WantKind::Block || !is_asked {
                    *known = want;
                }
            }
        }
    }

    /// Adds a want that the peer was told before, which is called off in a message of its own.
    pub(super) fn push_again(&mut self, want: Want) {
        let request =
            self.again.get(&want.cid).copied().filter(|again| again.kind == WantKind::Block);
        self.push(Want { kind: WantKind::Block, is_cancel: true, send_dont_have: false, ..want });
        self.again.insert(want.cid, request.unwrap_or(want));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Takes the entries of the next message.
    pub(super) fn take(&mut self) -> Vec<Want> {
        let count = self.order.len().min(ENTRIES_MAX);
        let cids = self.order.drain(..count);
        let entries: Vec<_> = cids.filter_map(|cid| self.by_cid.remove(&cid)).collect();
        for entry in &entries {
            if let Some(want) = self.again.remove(&entry.cid) {
                self.push(want);
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::cid_from_text;

    fn want(kind: WantKind, is_cancel: bool) -> Want {
        let cid = cid_from_text("bafkqaaa").unwrap();
        Want { cid, priority: 1, is_cancel, kind, send_dont_have: true }
    }

    #[test]
    fn the_last_word_counts() {
        let (have, block) = (want(WantKind::Have, false), want(WantKind::Block, false));
        let cancel = want(WantKind::Block, true);
        let cases = [
            (vec![have, block], block),
            (vec![block, have], block),
            (vec![block, cancel], cancel),
            (vec![cancel, have], have),
        ];
        for (entries, last) in cases {
            let mut outbox = Outbox::default();
            for entry in entries {
                outbox.push(entry);
            }
            assert_eq!(outbox.take(), [last]);
            assert!(outbox.is_empty());
        }
    }

    #[test]
    fn what_is_told_again_is_called_off_in_the_message_before() {
        let (block, cancel) = (want(WantKind::Block, false), want(WantKind::Block, true));
        let calls_off = |entries: &[Want]| entries.len() == 1 && entries[0].is_cancel;
        let mut outbox = Outbox::default();
        outbox.push_again(block);
        outbox.push_again(block);
        assert!(calls_off(&outbox.take()));
        assert!(!outbox.is_empty());
        assert_eq!(outbox.take(), [block]);
        assert!(outbox.is_empty());
        let have = want(WantKind::Have, false);
        for told in [[have, block], [block, have]] {
            for is_again in [false, true] {
                outbox.push_again(told[0]);
                if is_again {
                    outbox.push_again(told[1]);
                } else {
                    outbox.push(told[1]);
                }
                assert!(calls_off(&outbox.take()));
                assert_eq!(
                    outbox.take(),
                    [block],
                    "a question does not take the place of a request"
                );
            }
        }
        outbox.push_again(block);
        outbox.push(cancel);
        assert_eq!(outbox.take(), [cancel]);
        assert!(outbox.is_empty(), "what is not wanted any more is not told again");
    }
}
