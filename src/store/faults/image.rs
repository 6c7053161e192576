//! A disk that knows what a power cut would leave: beside the live files it keeps what is durable,
//! and everything since.
//!
//! Names and contents are apart, as POSIX has it: syncing a file says nothing about its name. What
//! was not synced may be there or not, each change by itself, a write page by page. A failed sync
//! makes all that it was to cover doubtful for good, as the kernel does. The live files are real;
//! they are never really synced, which makes thousands of runs affordable.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::store::diskio::{DiskIo, RealDisk};

/// Bytes that a disk writes as one.
const PAGE_LEN: usize = 4096;

/// What happens at the n-th change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It and all later ones do not happen: the process is dead, though it does not know.
    Freeze,
    /// It alone fails with this errno.
    Errno(i32),
}

/// The real disk, and beside it the durable image of the files below one directory.
#[derive(Debug)]
pub struct ImageDisk {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    changes: usize,
    fault: Option<(usize, Fault)>,
    frozen: bool,
    files: Vec<FileImage>,
    /// Which of `files` an inode number stands for now.
    by_ino: HashMap<u64, usize>,
    dirs: BTreeMap<PathBuf, DirImage>,
}

#[derive(Debug, Default)]
struct FileImage {
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// What a failed sync covered: it may be durable, and no later sync makes it so.
    doubtful: Vec<Change>,
}

#[derive(Debug, Default)]
struct DirImage {
    durable: BTreeMap<OsString, usize>,
    pending: Vec<NameChange>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Punch(u64, u64),
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(OsString, usize),
    Remove(OsString),
    Move(OsString, OsString, usize),
}

/// Random numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        self.0 >> 33
    }

    /// Is true in `of_four` of four cases.
    fn chance(&mut self, of_four: u64) -> bool {
        self.next() % 4 < of_four
    }
}

impl ImageDisk {
    /// Takes what is below `root` now for durable.
    ///
    /// # Errors
    /// What reading it says.
    pub fn over(root: &Path) -> io::Result<Self> {
        let mut state = State::default();
        let root = root.canonicalize()?;
        for dir in [root.clone(), root.join("packs")] {
            let mut names = BTreeMap::new();
            for entry in std::fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    let durable = std::fs::read(entry.path())?;
                    state.by_ino.insert(entry.metadata()?.ino(), state.files.len());
                    names.insert(entry.file_name(), state.files.len());
                    state.files.push(FileImage { durable, ..FileImage::default() });
                }
            }
            state.dirs.insert(dir, DirImage { durable: names, pending: Vec::new() });
        }
        Ok(Self { root, state: Mutex::new(state) })
    }

    /// Plans a fault at the change with this number; the first is 0.
    pub fn plan(&self, at: usize, fault: Fault) {
        self.state.lock().fault = Some((at, fault));
    }

    /// Returns how many changes were asked for.
    pub fn changes(&self) -> usize {
        self.state.lock().changes
    }

    /// Tells whether a planned freeze has come.
    pub fn is_frozen(&self) -> bool {
        self.state.lock().frozen
    }

    /// Writes what a power cut now could leave into the directory `to`, which is made; `seed`
    /// chooses what of the undurable is there. Files that were not written through this are not.
    ///
    /// # Errors
    /// What writing it says.
    pub fn power_cut(&self, to: &Path, seed: u64) -> io::Result<()> {
        let mut random = Random(seed);
        random.next();
        // None of it, all of it, and more or less half.
        let of_four = [0, 4, 2, 1, 3, 2][usize::try_from(seed % 6).unwrap_or(0)];
        let state = self.state.lock();
        for (dir, image) in &state.dirs {
            let to = to.join(dir.strip_prefix(&self.root).unwrap_or(dir));
            std::fs::create_dir_all(&to)?;
            for (name, file) in image.after(&mut random, of_four) {
                std::fs::write(to.join(name), state.files[file].after(&mut random, of_four))?;
            }
        }
        Ok(())
    }

    /// Counts a change and says whether it happens.
    fn admit(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        let number = state.changes;
        state.changes += 1;
        let due = state.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        state.frozen |= due == Some(Fault::Freeze);
        match due {
            _ if state.frozen => Err(io::Error::other("this process is dead")),
            Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(state),
        }
    }
}

impl State {
    fn file(&mut self, file: &File) -> io::Result<&mut FileImage> {
        self.file_at(file.metadata()?.ino())
    }

    fn file_at(&mut self, ino: u64) -> io::Result<&mut FileImage> {
        let number = self.number(ino)?;
        Ok(&mut self.files[number])
    }

    fn number(&self, ino: u64) -> io::Result<usize> {
        let unknown = || io::Error::other("a file that did not come through this disk");
        self.by_ino.get(&ino).copied().ok_or_else(unknown)
    }

    fn rename(&mut self, path: &Path, change: NameChange) -> io::Result<()> {
        // There are other ways to it, as that through a descriptor.
        let dir = path.parent().map(Path::canonicalize).transpose()?;
        let image = dir.and_then(|dir| self.dirs.get_mut(&dir));
        image
            .ok_or_else(|| io::Error::other("a directory that is not watched"))?
            .pending
            .push(change);
        Ok(())
    }
}

impl FileImage {
    fn after(&self, random: &mut Random, of_four: u64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in self.doubtful.iter().chain(&self.pending) {
            change.apply(&mut bytes, || random.chance(of_four));
        }
        bytes
    }
}

impl DirImage {
    fn after(&self, random: &mut Random, of_four: u64) -> BTreeMap<OsString, usize> {
        let mut names = self.durable.clone();
        for change in self.pending.iter().filter(|_| random.chance(of_four)) {
            change.apply(&mut names);
        }
        names
    }
}

impl Change {
    /// Changes `bytes`, as far as `is_there` says.
    fn apply(&self, bytes: &mut Vec<u8>, mut is_there: impl FnMut() -> bool) {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        match self {
            Self::SetLen(len) if is_there() => bytes.resize(at(*len), 0),
            Self::Punch(offset, len) if is_there() => {
                let end = at(offset + len).min(bytes.len());
                bytes[at(*offset).min(end)..end].fill(0);
            }
            Self::Write(offset, data) => {
                let mut start = at(*offset);
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let (page, later) =
                        rest.split_at((PAGE_LEN - start % PAGE_LEN).min(rest.len()));
                    if is_there() {
                        bytes.resize(bytes.len().max(start + page.len()), 0);
                        bytes[start..start + page.len()].copy_from_slice(page);
                    }
                    start += page.len();
                    rest = later;
                }
            }
            _ => {}
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<OsString, usize>) {
        match self {
            Self::Set(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Remove(name) => drop(names.remove(name)),
            Self::Move(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }
}

fn name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_owned()
}

impl DiskIo for ImageDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.admit()?;
        let file = RealDisk.create(path)?;
        let number = state.files.len();
        state.files.push(FileImage::default());
        state.by_ino.insert(file.metadata()?.ino(), number);
        state.rename(path, NameChange::Set(name(path), number))?;
        Ok(file)
    }

    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut data: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let (mut state, failed) = match self.admit() {
            Ok(state) => (state, None),
            Err(error) => {
                let state = self.state.lock();
                if state.frozen {
                    return Err(error);
                }
                data.truncate(data.len() / 2);
                (state, Some(error))
            }
        };
        let written = data.len();
        RealDisk.write(file, &[IoSlice::new(&data)], offset)?;
        state.file(file)?.pending.push(Change::Write(offset, data));
        failed.map_or(Ok(written), Err)
    }

    /// Is one write of all bytes, so that it works over any disk.
    fn clone_file(&self, from: &File, to: &File) -> io::Result<()> {
        let mut content = vec![0; usize::try_from(from.metadata()?.len()).unwrap_or(usize::MAX)];
        from.read_exact_at(&mut content, 0)?;
        self.write(to, &[IoSlice::new(&content)], 0).map(drop)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        match self.admit() {
            Ok(mut state) => {
                let image = state.file(file)?;
                for change in std::mem::take(&mut image.pending) {
                    change.apply(&mut image.durable, || true);
                }
                Ok(())
            }
            Err(error) => {
                let mut state = self.state.lock();
                if !state.frozen {
                    let image = state.file(file)?;
                    image.doubtful.append(&mut image.pending);
                }
                Err(error)
            }
        }
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        let mut state = self.admit()?;
        RealDisk.set_len(file, len)?;
        state.file(file)?.pending.push(Change::SetLen(len));
        Ok(())
    }

    fn punch(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.admit()?;
        RealDisk.punch(file, offset, len)?;
        state.file(file)?.pending.push(Change::Punch(offset, len));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.admit()?;
        RealDisk.rename(from, to)?;
        let number = state.number(std::fs::metadata(to)?.ino())?;
        state.rename(to, NameChange::Move(name(from), name(to), number))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.admit()?;
        RealDisk.link(from, to)?;
        let number = state.number(std::fs::metadata(to)?.ino())?;
        state.rename(to, NameChange::Set(name(to), number))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.admit()?;
        RealDisk.remove(path)?;
        state.rename(path, NameChange::Remove(name(path)))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.admit()?;
        if let Some(image) = state.dirs.get_mut(&dir.canonicalize()?) {
            for change in std::mem::take(&mut image.pending) {
                change.apply(&mut image.durable);
            }
        }
        Ok(())
    }
}
