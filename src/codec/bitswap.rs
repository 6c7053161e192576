//! Bitswap messages (spec 05 §1–2): wants, blocks and what peers say they have.
//!
//! A message is checked once and then read where it lies, so a million entries cost no more memory
//! than their bytes. Nothing in it is proved: a block is bytes and the recipe for its CID.

use std::ops::Range;

use bytes::Bytes;
use unsigned_varint::decode;

use super::proto::{Fields, Value, WireError, put_bytes, put_field, put_varint, varint_len};
use crate::block::{BLOCK_LEN_MAX, Block, BlockError, Cid, cid_from_bytes};

/// Longest message in bytes, without the length in front of it (boxo and Helia accept no more).
pub const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;
/// Most blocks of one message: no peer is asked for so many at a time, and each takes some hundred bytes of memory
/// whatever its length.
pub const BLOCKS_MAX: usize = 8192;
/// Most wants, and most presences, of one message that take part: eight times what a peer remembers, and no node asks
/// for so many at a time.
pub const ENTRIES_MAX: usize = 8192;
/// Longest CID in bytes that takes part; entries with longer ones are left out, as boxo does.
pub const CID_LEN_MAX: usize = 168;

/// Fields of a message.
const WANTLIST: u64 = 1;
const BARE_BLOCK: u64 = 2;
const BLOCK: u64 = 3;
const PRESENCE: u64 = 4;
/// Tag bytes (field number and wire type) of what is written.
const WANTLIST_TAG: u8 = 0x0a;
const BARE_BLOCK_TAG: u8 = 0x12;
const BLOCK_TAG: u8 = 0x1a;
const PRESENCE_TAG: u8 = 0x22;

/// Why bytes are no bitswap message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not protobuf.
    #[error("a bitswap message breaks protobuf: {0}")]
    Wire(#[from] WireError),
    /// A field has another type than its number says.
    #[error("field {0} of a bitswap message has the wrong type")]
    FieldType(u64),
    /// A CID that cannot be read.
    #[error("a bitswap message has a malformed CID")]
    Cid,
    /// What stands before a block's data is not four numbers.
    #[error("a bitswap block has a malformed prefix")]
    Prefix,
    /// Longer than [`MESSAGE_LEN_MAX`].
    #[error("a bitswap message of {0} bytes is over the limit of {MESSAGE_LEN_MAX}")]
    TooLong(usize),
    /// More blocks than [`BLOCKS_MAX`].
    #[error("a bitswap message has more than {BLOCKS_MAX} blocks")]
    TooManyBlocks,
}

/// What is asked of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WantKind {
    /// Whether the peer has it.
    Have,
    /// The block itself.
    Block,
}

/// One entry of a list of wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which block.
    pub cid: Cid,
    /// Greater goes first; means something only within the list of one peer.
    pub priority: i32,
    /// No longer wanted; the rest of the entry means nothing then.
    pub is_cancel: bool,
    /// What is asked.
    pub kind: WantKind,
    /// Whether the peer is to say so when it lacks the block.
    pub send_dont_have: bool,
}

/// What a peer says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Which block.
    pub cid: Cid,
    /// Whether the peer has it.
    pub has: bool,
}

/// The bytes of a block and how to compute its CID; not proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockClaim {
    /// Version, codec, multihash code and digest length; `None` stands for CIDv0 (the old form).
    prefix: Option<[u64; 4]>,
    data: Bytes,
}

/// A message whose structure was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    bytes: Bytes,
    wants: usize,
    presences: usize,
    is_full: bool,
}

impl BlockClaim {
    /// Returns the length of the data in bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Tells whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Hashes the data and returns it with the CID that comes out.
    ///
    /// # Errors
    /// [`BlockError::TooBig`], [`BlockError::Hash`], [`BlockError::NotV0`].
    pub fn prove(&self) -> Result<Block, BlockError> {
        let len = self.data.len();
        if len > BLOCK_LEN_MAX {
            return Err(BlockError::TooBig { len });
        }
        let data = self.data.clone();
        match self.prefix {
            None | Some([0, ..]) => Block::hash_v0(data),
            Some([_, codec, code, digest_len]) => {
                Block::hash_to(codec, code, usize::try_from(digest_len).unwrap_or(usize::MAX), data)
            }
        }
    }
}

impl Message {
    /// Checks the structure of a message.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: Bytes) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let (mut blocks, mut wants, mut presences, mut is_full) = (0, 0, 0, false);
        for field in Fields::new(&bytes, 0..bytes.len()) {
            let (number, value) = field?;
            if matches!(number, BARE_BLOCK | BLOCK) {
                blocks += 1;
                if blocks > BLOCKS_MAX {
                    return Err(MessageError::TooManyBlocks);
                }
            }
            match number {
                WANTLIST => {
                    for field in Fields::new(&bytes, range(number, value)?) {
                        let (number, value) = field?;
                        match number {
                            1 => {
                                want(&bytes, range(number, value)?)?;
                                wants += 1;
                            }
                            2 => is_full |= varint(number, value)? > 0,
                            _ => {}
                        }
                    }
                }
                BARE_BLOCK => {
                    range(number, value)?;
                }
                BLOCK => drop(block(&bytes, range(number, value)?)?),
                PRESENCE => {
                    presence(&bytes, range(number, value)?)?;
                    presences += 1;
                }
                _ => {}
            }
        }
        Ok(Self { bytes, wants, presences, is_full })
    }

    /// Tells whether the wants are all that the peer wants: earlier ones are over.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Returns how many wants, cancels and presences take part.
    pub fn entries(&self) -> usize {
        self.wants.min(ENTRIES_MAX) + self.presences.min(ENTRIES_MAX)
    }

    /// Returns the wants and cancels, in order, up to [`ENTRIES_MAX`].
    pub fn wants(&self) -> impl Iterator<Item = Want> {
        let wantlists = self.ranges(0..self.bytes.len(), WANTLIST);
        let entries = wantlists.flat_map(|list| self.ranges(list, 1)).take(ENTRIES_MAX);
        entries.filter_map(|entry| want(&self.bytes, entry).ok()?)
    }

    /// Returns the blocks; each takes at most two and a half times its own length of the message's memory.
    pub fn blocks(&self) -> impl Iterator<Item = BlockClaim> {
        let all = 0..self.bytes.len();
        let bare = self.ranges(all.clone(), BARE_BLOCK);
        let bare = bare.map(|data| BlockClaim { prefix: None, data: self.bytes.slice(data) });
        let blocks = self.ranges(all, BLOCK).filter_map(|entry| block(&self.bytes, entry).ok());
        bare.chain(blocks).map(|claim| self.apart(claim))
    }

    /// Returns the bytes that blocks take of the message.
    pub fn block_bytes(&self) -> usize {
        let len = |field| match field {
            Ok((BARE_BLOCK | BLOCK, Value::Bytes(range))) => range.len(),
            _ => 0,
        };
        Fields::new(&self.bytes, 0..self.bytes.len()).map(len).sum()
    }

    /// Copies what is the lesser part of the message, since a slice would keep all of it.
    fn apart(&self, claim: BlockClaim) -> BlockClaim {
        // Of two blocks of one length each is a little less than half.
        if claim.len() >= self.bytes.len() / 5 * 2 {
            return claim;
        }
        BlockClaim { data: Bytes::copy_from_slice(&claim.data), ..claim }
    }

    /// Returns what the peer says it has and has not, up to [`ENTRIES_MAX`].
    pub fn presences(&self) -> impl Iterator<Item = Presence> {
        let entries = self.ranges(0..self.bytes.len(), PRESENCE).take(ENTRIES_MAX);
        entries.filter_map(|entry| presence(&self.bytes, entry).ok()?)
    }

    /// Returns where the fields of a number lie.
    fn ranges(&self, within: Range<usize>, number: u64) -> impl Iterator<Item = Range<usize>> {
        Fields::new(&self.bytes, within).filter_map(move |field| match field {
            Ok((found, Value::Bytes(range))) if found == number => Some(range),
            _ => None,
        })
    }
}

fn range(number: u64, value: Value) -> Result<Range<usize>, MessageError> {
    match value {
        Value::Bytes(range) => Ok(range),
        _ => Err(MessageError::FieldType(number)),
    }
}

fn varint(number: u64, value: Value) -> Result<u64, MessageError> {
    match value {
        Value::Varint(value) => Ok(value),
        _ => Err(MessageError::FieldType(number)),
    }
}

/// Returns a CID, `None` for one that is too long to take part.
fn cid(bytes: &[u8]) -> Result<Option<Cid>, MessageError> {
    if bytes.len() > CID_LEN_MAX {
        return Ok(None);
    }
    cid_from_bytes(bytes).map(Some).map_err(|_| MessageError::Cid)
}

fn want(bytes: &[u8], entry: Range<usize>) -> Result<Option<Want>, MessageError> {
    let (mut name, mut priority, mut is_cancel) = (0..0, 0, false);
    let (mut is_have, mut send_dont_have) = (false, false);
    for field in Fields::new(bytes, entry) {
        let (number, value) = field?;
        match number {
            1 => name = range(number, value)?,
            // An int32 takes the low half of the number, as protobuf says.
            #[expect(clippy::cast_possible_truncation, reason = "the rule of protobuf")]
            2 => priority = varint(number, value)? as i32,
            3 => is_cancel = varint(number, value)? != 0,
            4 => is_have = varint(number, value)? == 1,
            5 => send_dont_have = varint(number, value)? != 0,
            _ => {}
        }
    }
    let kind = if is_have { WantKind::Have } else { WantKind::Block };
    Ok(cid(&bytes[name])?.map(|cid| Want { cid, priority, is_cancel, kind, send_dont_have }))
}

fn presence(bytes: &[u8], entry: Range<usize>) -> Result<Option<Presence>, MessageError> {
    let (mut name, mut has) = (0..0, true);
    for field in Fields::new(bytes, entry) {
        let (number, value) = field?;
        match number {
            1 => name = range(number, value)?,
            2 => has = varint(number, value)? == 0,
            _ => {}
        }
    }
    Ok(cid(&bytes[name])?.map(|cid| Presence { cid, has }))
}

fn block(bytes: &Bytes, entry: Range<usize>) -> Result<BlockClaim, MessageError> {
    let (mut prefix, mut data) = (0..0, 0..0);
    for field in Fields::new(bytes, entry) {
        let (number, value) = field?;
        match number {
            1 => prefix = range(number, value)?,
            2 => data = range(number, value)?,
            _ => {}
        }
    }
    let mut numbers = [0; 4];
    let mut rest = &bytes[prefix];
    for number in &mut numbers {
        (*number, rest) = decode::u64(rest).map_err(|_| MessageError::Prefix)?;
    }
    if !rest.is_empty() {
        return Err(MessageError::Prefix);
    }
    Ok(BlockClaim { prefix: Some(numbers), data: bytes.slice(data) })
}

/// Which form of the protocol a peer speaks, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `/ipfs/bitswap` and `/ipfs/bitswap/1.0.0`: blocks are bare bytes of CIDv0.
    V1_0,
    /// `/ipfs/bitswap/1.1.0`: blocks with the recipe of their CIDs.
    V1_1,
    /// `/ipfs/bitswap/1.2.0`: peers tell what they have.
    V1_2,
}

/// A longer block is a part of its own, and not copied.
const COPIED_LEN_MAX: usize = 16 * 1024;
/// Room for the length in front of a message.
const LEN_ROOM: usize = 5;

/// Writes one message.
#[derive(Debug, Clone)]
pub struct MessageWriter {
    version: Version,
    wants: Vec<u8>,
    /// Long blocks, each with what goes in front of it.
    long: Vec<(Vec<u8>, Bytes)>,
    /// What follows them. What is written first is behind [`LEN_ROOM`].
    rest: Vec<u8>,
}

impl MessageWriter {
    /// Begins a message in the form that `version` knows.
    pub fn new(version: Version) -> Self {
        Self { version, wants: Vec::new(), long: Vec::new(), rest: vec![0; LEN_ROOM] }
    }

    /// Adds a want. Before 1.2 peers know no question but for the block itself.
    pub fn want(&mut self, want: &Want) {
        let mut entry = Vec::with_capacity(CID_LEN_MAX);
        put_bytes(&mut entry, 0x0a, &want.cid.to_bytes());
        if want.priority != 0 {
            put_field(&mut entry, 0x10, i64::from(want.priority).cast_unsigned());
        }
        if want.is_cancel {
            put_field(&mut entry, 0x18, 1);
        }
        if self.version >= Version::V1_2 {
            if want.kind == WantKind::Have {
                put_field(&mut entry, 0x20, 1);
            }
            if want.send_dont_have {
                put_field(&mut entry, 0x28, 1);
            }
        }
        put_bytes(&mut self.wants, 0x0a, &entry);
    }

    /// Adds a block.
    pub fn block(&mut self, cid: &Cid, data: &Bytes) {
        self.put_block_head(cid, data.len());
        if data.len() > COPIED_LEN_MAX {
            self.long.push((std::mem::take(&mut self.rest), data.clone()));
        } else {
            self.rest.extend_from_slice(data);
        }
    }

    /// Writes what goes in front of the bytes of a block.
    fn put_block_head(&mut self, cid: &Cid, len: usize) {
        if self.version < Version::V1_1 {
            self.rest.push(BARE_BLOCK_TAG);
            return put_varint(&mut self.rest, len as u64);
        }
        let mut prefix = Vec::with_capacity(16);
        let hash = cid.hash();
        for number in [cid.version().into(), cid.codec(), hash.code(), hash.size().into()] {
            put_varint(&mut prefix, number);
        }
        let field_len = |len: usize| 1 + varint_len(len as u64) + len;
        self.rest.push(BLOCK_TAG);
        put_varint(&mut self.rest, (field_len(prefix.len()) + field_len(len)) as u64);
        put_bytes(&mut self.rest, 0x0a, &prefix);
        self.rest.push(0x12);
        put_varint(&mut self.rest, len as u64);
    }

    /// Adds that this node has a block or lacks it; left out before 1.2, which has no words for it.
    pub fn presence(&mut self, presence: &Presence) {
        if self.version < Version::V1_2 {
            return;
        }
        let mut entry = Vec::with_capacity(CID_LEN_MAX);
        put_bytes(&mut entry, 0x0a, &presence.cid.to_bytes());
        if !presence.has {
            put_field(&mut entry, 0x10, 1);
        }
        put_bytes(&mut self.rest, PRESENCE_TAG, &entry);
    }

    /// Tells whether the message says nothing.
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.rest.len() == LEN_ROOM && self.long.is_empty()
    }

    /// Returns the message in parts, with its length in front; `is_full` says that its wants are all there are.
    pub fn finish(mut self, is_full: bool) -> Vec<Bytes> {
        if is_full {
            put_field(&mut self.wants, 0x10, 1);
        }
        if !self.wants.is_empty() {
            put_bytes(&mut self.rest, WANTLIST_TAG, &self.wants);
        }
        let long_len: usize = self.long.iter().map(|(head, data)| head.len() + data.len()).sum();
        let mut len = Vec::with_capacity(LEN_ROOM);
        put_varint(&mut len, (long_len + self.rest.len() - LEN_ROOM) as u64);
        let start = LEN_ROOM - len.len();
        let first = self.long.first_mut().map_or(&mut self.rest, |(head, _)| head);
        first[start..LEN_ROOM].copy_from_slice(&len);
        let long = self.long.into_iter().flat_map(|(head, data)| [head.into(), data]);
        let mut parts: Vec<Bytes> = long.chain([self.rest.into()]).collect();
        parts[0] = parts[0].slice(start..);
        parts
    }
}

#[cfg(test)]
mod tests {
    use multibase::Base::Base16Lower;

    use super::*;
    use crate::block::{HashFn, codecs};

    fn hello() -> Block {
        let data = Bytes::from_static(b"hello world\n");
        Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap()
    }

    fn want(kind: WantKind) -> Want {
        let cid = *hello().cid();
        Want { cid, priority: 1, is_cancel: false, kind, send_dont_have: true }
    }

    /// Decodes what follows the length.
    fn decode(framed: &[u8]) -> Result<Message, MessageError> {
        let (len, rest) = unsigned_varint::decode::usize(framed).unwrap();
        assert_eq!(len, rest.len());
        Message::decode(Bytes::copy_from_slice(rest))
    }

    fn hex(text: &str) -> Vec<u8> {
        Base16Lower.decode(text).unwrap()
    }

    const HELLO: &str = "01551220a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447";

    #[test]
    fn a_block_keeps_no_message_that_is_much_longer() {
        let block = |len| Block::hash(codecs::RAW, HashFn::SHA2_256, vec![1; len].into()).unwrap();
        let mut writer = MessageWriter::new(Version::V1_2);
        for len in [10, 1000, 999] {
            let block = block(len);
            writer.block(block.cid(), block.data());
        }
        let message = decode(&writer.finish(false).concat()).unwrap();
        for claim in message.blocks() {
            let is_slice = message.bytes.as_ptr_range().contains(&claim.data.as_ptr());
            assert_eq!(is_slice, claim.len() > 10);
            assert_eq!(claim.prove().unwrap(), block(claim.len()));
        }
    }

    #[test]
    fn the_examples_of_the_spec_are_written_and_read() {
        let write = |add: &dyn Fn(&mut MessageWriter)| {
            let mut writer = MessageWriter::new(Version::V1_2);
            add(&mut writer);
            Base16Lower.encode(writer.finish(false).concat())
        };
        let cid = *hello().cid();
        let presence = |has| Presence { cid, has };
        let examples = [
            (format!("2e0a2c0a2a0a24{HELLO}10012801"), write(&|m| m.want(&want(WantKind::Block)))),
            (
                format!("300a2e0a2c0a24{HELLO}100120012801"),
                write(&|m| m.want(&want(WantKind::Have))),
            ),
            (
                "161a140a0401551220120c68656c6c6f20776f726c640a".into(),
                write(&|m| m.block(hello().cid(), hello().data())),
            ),
            (format!("2822260a24{HELLO}"), write(&|m| m.presence(&presence(true)))),
            (format!("2a22280a24{HELLO}1001"), write(&|m| m.presence(&presence(false)))),
        ];
        for (right, written) in &examples {
            assert_eq!(written, right);
        }
        let [block_want, have_want, block, have, dont_have] =
            examples.map(|(right, _)| decode(&hex(&right)).unwrap());
        assert_eq!(block_want.wants().collect::<Vec<_>>(), [want(WantKind::Block)]);
        assert_eq!(have_want.wants().collect::<Vec<_>>(), [want(WantKind::Have)]);
        let blocks: Vec<_> = block.blocks().map(|claim| claim.prove().unwrap()).collect();
        assert_eq!(blocks, [hello()]);
        assert_eq!(have.presences().collect::<Vec<_>>(), [presence(true)]);
        assert_eq!(dont_have.presences().collect::<Vec<_>>(), [presence(false)]);
        assert!(!have.is_full());
    }

    #[test]
    fn everything_goes_into_one_message() {
        let cancel = Want { is_cancel: true, priority: -1, ..want(WantKind::Block) };
        let wants = [cancel, Want { priority: i32::MAX, ..want(WantKind::Have) }];
        let old = Block::hash_v0(Bytes::from_static(&[0x0a, 2, 8, 1])).unwrap();
        let blake3 = HashFn::by_name("blake3").unwrap();
        let other = Block::hash(codecs::DAG_CBOR, blake3, Bytes::from_static(b"\xa0")).unwrap();
        let mut writer = MessageWriter::new(Version::V1_2);
        assert!(writer.is_empty());
        for want in &wants {
            writer.want(want);
        }
        for block in [&old, &other] {
            writer.block(block.cid(), block.data());
        }
        writer.presence(&Presence { cid: *old.cid(), has: true });
        let message = decode(&writer.finish(true).concat()).unwrap();
        assert!(message.is_full());
        assert_eq!(message.wants().collect::<Vec<_>>(), wants);
        let blocks: Vec<_> = message.blocks().map(|claim| claim.prove().unwrap()).collect();
        assert_eq!(blocks, [old.clone(), other]);
        assert_eq!(message.presences().map(|found| found.cid).collect::<Vec<_>>(), [*old.cid()]);
    }

    #[test]
    fn long_blocks_are_parts_that_are_not_copied() {
        for version in [Version::V1_0, Version::V1_2] {
            let lens = [COPIED_LEN_MAX + 1, COPIED_LEN_MAX, 200_000];
            let blocks = lens.map(|len| Block::hash_v0(vec![1; len].into()).unwrap());
            let mut writer = MessageWriter::new(version);
            for block in &blocks {
                writer.block(block.cid(), block.data());
            }
            writer.want(&want(WantKind::Block));
            let parts = writer.finish(false);
            let lies_in =
                |block: &Block| parts.iter().any(|part| part.as_ptr() == block.data().as_ptr());
            assert_eq!(blocks.each_ref().map(lies_in), [true, false, true]);
            let message = decode(&parts.concat()).unwrap();
            let came: Vec<_> = message.blocks().map(|claim| claim.prove().unwrap()).collect();
            assert_eq!((came, message.wants().count()), (blocks.to_vec(), 1));
        }
    }

    #[test]
    fn old_peers_get_what_they_know() {
        let old = Block::hash_v0(Bytes::from_static(&[0x0a, 2, 8, 1])).unwrap();
        let mut writer = MessageWriter::new(Version::V1_0);
        writer.want(&want(WantKind::Have));
        writer.block(old.cid(), old.data());
        writer.presence(&Presence { cid: *old.cid(), has: false });
        let message = decode(&writer.finish(false).concat()).unwrap();
        let asked = message.wants().next().unwrap();
        assert_eq!((asked.kind, asked.send_dont_have), (WantKind::Block, false));
        assert_eq!(message.blocks().next().unwrap().prove().unwrap(), old);
        assert_eq!(message.presences().count(), 0);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let error = |bytes: &[u8]| Message::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
        assert!(matches!(error(&[0x0a, 5]), MessageError::Wire(_)), "cut short");
        assert_eq!(error(&[0x08, 1]), MessageError::FieldType(WANTLIST));
        assert_eq!(error(&hex("0a040a020a00")), MessageError::Cid, "an empty CID");
        assert_eq!(error(&hex("22030a0101")), MessageError::Cid);
        assert_eq!(error(&hex("1a050a03015512")), MessageError::Prefix, "three numbers");
        assert_eq!(error(&hex("1a070a050155122000")), MessageError::Prefix, "five numbers");
        let long = Bytes::from(vec![0; MESSAGE_LEN_MAX + 1]);
        assert_eq!(Message::decode(long), Err(MessageError::TooLong(MESSAGE_LEN_MAX + 1)));
    }

    #[test]
    fn a_message_of_too_many_blocks_is_refused() {
        let blocks = [vec![BARE_BLOCK_TAG, 0], hex("1a060a0401551220")].concat();
        let blocks = blocks.repeat(BLOCKS_MAX / 2);
        let most = Message::decode(blocks.clone().into());
        assert_eq!(most.unwrap().blocks().count(), BLOCKS_MAX);
        let over = [blocks, vec![BARE_BLOCK_TAG, 0]].concat();
        assert_eq!(Message::decode(over.into()), Err(MessageError::TooManyBlocks));
    }

    #[test]
    fn of_too_many_entries_the_first_take_part() {
        let mut writer = MessageWriter::new(Version::V1_2);
        for number in 0..=ENTRIES_MAX {
            writer.want(&Want { is_cancel: number == ENTRIES_MAX, ..want(WantKind::Have) });
            writer.presence(&Presence { cid: *hello().cid(), has: number < ENTRIES_MAX });
        }
        let message = decode(&writer.finish(true).concat()).unwrap();
        assert_eq!(
            (message.wants().count(), message.presences().count()),
            (ENTRIES_MAX, ENTRIES_MAX)
        );
        assert!(!message.wants().any(|want| want.is_cancel));
        assert!(message.presences().all(|presence| presence.has));
        assert_eq!((message.entries(), message.is_full()), (2 * ENTRIES_MAX, true));
    }

    #[test]
    fn a_cid_that_is_too_long_is_left_out() {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 0x0a, &[7; CID_LEN_MAX + 1]);
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, PRESENCE_TAG, &entry);
        assert_eq!(Message::decode(bytes.into()).unwrap().presences().count(), 0);
    }

    #[test]
    fn claims_that_no_allowed_hash_can_prove_are_refused() {
        let claim = |prefix| BlockClaim { prefix: Some(prefix), data: Bytes::from_static(b"x") };
        assert!(claim([1, 0x55, 0x12, 8]).prove().is_err(), "a short digest");
        assert!(claim([1, 0x55, 0xd5, 16]).prove().is_err(), "md5");
        assert!(claim([1, 0x55, 0x12, u64::MAX]).prove().is_err());
        let short = claim([1, 0x55, 0x12, 20]).prove().unwrap();
        assert_eq!(short.cid().hash().size(), 20);
        let long = BlockClaim { prefix: None, data: Bytes::from(vec![0; BLOCK_LEN_MAX + 1]) };
        assert!(matches!(long.prove(), Err(BlockError::TooBig { .. })));
    }
}
