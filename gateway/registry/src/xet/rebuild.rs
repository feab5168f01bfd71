//! Makes objects of the working area from xorbs, as a shard says.
//!
//! Only xorbs of the same caller are looked at: another's hash finds nothing. What comes out is hashed both ways, and is
//! an object only if it has the hashes that the shard says.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::hash::{Tree, XetHash};
use super::shard::{self, Files, Segment};
use super::xorb::{self, HEADER, Header};
use crate::RegistryError;
use crate::staging::{CallerKey, Sink as _, Spool, Staging, failed};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Xorbs that are open at once; a file seldom goes back and forth between more.
const OPEN: usize = 8;
/// Places of chunks that are remembered, over all xorbs: those of some thousand full ones.
const PLACES_MAX: usize = 16 << 20;

/// Rebuilds the files of one shard.
pub(crate) struct Rebuild {
    staging: Arc<Staging>,
    caller: CallerKey,
    file: Option<(Spool, Tree)>,
    open: VecDeque<Xorb>,
    places: HashMap<XetHash, Arc<[u32]>>,
    /// Bytes that may still be written and read for this shard: a small one can name the same chunks a million times.
    budget: u64,
    stop: Arc<AtomicBool>,
    count: usize,
}

/// An open xorb, and where its chunks begin; one place more, where the last one ends.
struct Xorb {
    hash: XetHash,
    file: BufReader<File>,
    places: Arc<[u32]>,
}

impl Rebuild {
    pub(crate) fn new(staging: &Arc<Staging>, caller: &CallerKey) -> Self {
        Self {
            staging: Arc::clone(staging),
            caller: caller.clone(),
            file: None,
            open: VecDeque::new(),
            places: HashMap::new(),
            budget: staging.limits().caller,
            stop: Arc::default(),
            count: 0,
        }
    }

    /// Set, it ends the work at the next chunk.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// All files are whole, so the xorbs are needed no more. Returns how many files were made.
    pub(crate) fn finished(self) -> usize {
        for hash in self.places.keys() {
            self.staging.committed(&self.caller, &hash.hex());
        }
        self.count
    }

    fn started(&mut self) -> Result<(Spool, Tree)> {
        match self.file.take() {
            Some(file) => Ok(file),
            None => {
                let most = self.staging.limits().object;
                Ok((Spool::new(&self.staging, &self.caller, most)?, Tree::default()))
            }
        }
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        let most = self.staging.limits().caller;
        self.budget = self
            .budget
            .checked_sub(bytes)
            .ok_or_else(|| RegistryError::TooLarge {
                what: "what this shard is made into".to_owned(),
                most: format!("{most} bytes"),
            })?;
        Ok(())
    }

    /// The xorb, at the front of those that are open.
    fn xorb(&mut self, hash: XetHash) -> Result<&mut Xorb> {
        let at = self.open.iter().position(|xorb| xorb.hash == hash);
        let xorb = match at.and_then(|at| self.open.remove(at)) {
            Some(xorb) => xorb,
            None => self.opened(hash)?,
        };
        self.open.truncate(OPEN - 1);
        self.open.push_front(xorb);
        self.open.front_mut().ok_or_else(|| shard::bad("no xorb is open"))
    }

    fn opened(&mut self, hash: XetHash) -> Result<Xorb> {
        let path = self.staging.xorb(&self.caller, &hash.hex());
        let path = path.ok_or_else(|| shard::bad("it names a xorb that was not uploaded by this token"))?;
        let mut file = BufReader::new(File::open(&path).map_err(failed)?);
        if let Some(places) = self.places.get(&hash) {
            let places = Arc::clone(places);
            return Ok(Xorb { hash, file, places });
        }
        let places: Arc<[u32]> = places(&mut file)?.into();
        self.spend(u64::from(places.last().copied().unwrap_or_default()))?;
        if self.places.values().map(|places| places.len()).sum::<usize>() > PLACES_MAX {
            self.places.clear();
        }
        self.places.insert(hash, Arc::clone(&places));
        Ok(Xorb { hash, file, places })
    }
}

impl Files for Rebuild {
    fn begin(&mut self, sha256: Option<XetHash>) -> Result<bool> {
        let staged = sha256.and_then(|sha256| self.staging.object(&self.caller, &sha256.hex()));
        self.count += usize::from(staged.is_some());
        Ok(staged.is_none())
    }

    fn segment(&mut self, segment: &Segment) -> Result<()> {
        let (mut spool, mut tree) = self.started()?;
        let most = u64::from(segment.bytes);
        self.spend(most)?;
        let stop = self.stop();
        let before = spool.size();
        let xorb = self.xorb(segment.xorb)?;
        xorb.seek(segment)?;
        for _ in segment.first..segment.end {
            if stop.load(Ordering::Relaxed) {
                return Err(shard::bad("its sender is gone"));
            }
            let plain = xorb.chunk()?;
            if spool.size() - before + plain.len() as u64 > most {
                break;
            }
            spool.write(&plain)?;
            tree.push(XetHash::of_chunk(&plain), plain.len() as u64);
        }
        if spool.size() - before != most {
            return Err(shard::bad("a segment has another length than it says"));
        }
        self.file = Some((spool, tree));
        Ok(())
    }

    fn end(&mut self, hash: XetHash, sha256: Option<XetHash>) -> Result<()> {
        let (spool, tree) = self.started()?;
        if tree.file() != hash {
            return Err(shard::bad("the chunks of a file do not have its hash"));
        }
        let size = spool.size();
        match sha256.map(|sha256| sha256.hex()) {
            Some(sha256) => spool.keep_object(Some((&sha256, size)))?,
            None => spool.keep_object(None)?,
        };
        self.count += 1;
        Ok(())
    }
}

/// Where the chunks of a xorb begin, and where the last one ends.
fn places(file: &mut BufReader<File>) -> Result<Vec<u32>> {
    let too_long = || xorb::bad("a chunk is too long");
    let mut places = vec![0];
    let mut at = 0_u32;
    while let Some(header) = header(file)? {
        let stored = i64::try_from(header.stored).map_err(|_| too_long())?;
        file.seek_relative(stored).map_err(failed)?;
        let length = u32::try_from(HEADER + header.stored).map_err(|_| too_long())?;
        at = at.checked_add(length).ok_or_else(too_long)?;
        places.push(at);
    }
    Ok(places)
}

impl Xorb {
    /// Goes to the segment's first chunk.
    fn seek(&mut self, segment: &Segment) -> Result<()> {
        let place = usize::try_from(segment.first)
            .ok()
            .and_then(|first| self.places.get(first));
        let end = usize::try_from(segment.end).unwrap_or(usize::MAX);
        let Some(&place) = place.filter(|_| segment.first < segment.end && end < self.places.len()) else {
            return Err(shard::bad("a segment names chunks that its xorb does not have"));
        };
        self.file.seek(SeekFrom::Start(place.into())).map_err(failed)?;
        Ok(())
    }

    /// The next chunk's plain bytes.
    fn chunk(&mut self) -> Result<Vec<u8>> {
        let header = header(&mut self.file)?;
        let header = header.ok_or_else(|| xorb::bad("it has fewer chunks than it had"))?;
        let mut stored = vec![0; header.stored];
        self.file.read_exact(&mut stored).map_err(failed)?;
        header.open(&stored)
    }
}

/// The header of the next chunk; nothing at the footer or the end.
fn header(file: &mut BufReader<File>) -> Result<Option<Header>> {
    let mut bytes = [0; HEADER];
    let mut read = 0;
    while read < HEADER {
        match file.read(&mut bytes[read..]).map_err(failed)? {
            0 => return Ok(None),
            more => read += more,
        }
    }
    Header::parse(bytes)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::staging::Limits;

    /// A SHA-256 as a shard holds it.
    fn turned(bytes: &[u8]) -> XetHash {
        let mut hash = XetHash(Sha256::digest(bytes).into());
        for word in hash.0.as_chunks_mut::<8>().0 {
            word.reverse();
        }
        hash
    }

    type Listed = (Vec<Segment>, XetHash, Option<XetHash>);

    struct World {
        _folder: tempfile::TempDir,
        staging: Arc<Staging>,
        file: Listed,
        content: Vec<u8>,
    }

    /// A file of chunks 1 and 2 of one xorb and chunk 0 of another, uploaded by alice.
    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::open(folder.path(), Limits::default()).unwrap();
        let alice = staging.key("alice");
        let chunk = |n: u8, length: usize| -> Vec<u8> { (0..=n).cycle().take(length).collect() };
        let parts = [
            vec![chunk(1, 700), chunk(2, 801), chunk(3, 902)],
            vec![chunk(4, 5)],
        ];
        let mut xorbs = Vec::new();
        for chunks in &parts {
            let (bytes, hash) = xorb::tests::written(chunks);
            let mut spool = Spool::new(&staging, &alice, xorb::XORB_MAX).unwrap();
            spool.write(&bytes).unwrap();
            spool.keep("xorbs", &hash.hex()).unwrap();
            xorbs.push(hash);
        }
        let used = [&parts[0][1], &parts[0][2], &parts[1][0]];
        let mut tree = Tree::default();
        for chunk in used {
            tree.push(XetHash::of_chunk(chunk), chunk.len() as u64);
        }
        let content: Vec<u8> = used.into_iter().flatten().copied().collect();
        let segment = |xorb: usize, first, end, bytes| Segment {
            xorb: xorbs[xorb],
            first,
            end,
            bytes,
        };
        let segments = vec![segment(0, 1, 3, 1703), segment(1, 0, 1, 5)];
        let file = (segments, tree.file(), Some(turned(&content)));
        World {
            _folder: folder,
            staging,
            file,
            content,
        }
    }

    fn rebuild(world: &World, caller: &str, file: Listed) -> Result<usize> {
        let mut rebuild = Rebuild::new(&world.staging, &world.staging.key(caller));
        shard::tests::read_bytes(&shard::tests::written(&[file]), &mut rebuild)?;
        Ok(rebuild.finished())
    }

    #[test]
    fn a_shard_of_many_files_costs_no_more_than_its_caller_may_have() {
        let world = world();
        let alice = world.staging.key("alice");
        let mut rebuild = Rebuild::new(&world.staging, &alice);
        rebuild.budget = 10_000;
        // Without their SHA-256 all of them must be made, to see that they are one.
        let (segments, hash, sha256) = world.file.clone();
        let many = vec![(segments, hash, None); 20];
        let error = shard::tests::read_bytes(&shard::tests::written(&many), &mut rebuild).unwrap_err();
        assert_eq!(error.code(), "TooLarge");
        drop(rebuild);
        // With it, what is there is not made again.
        let mut rebuild = Rebuild::new(&world.staging, &alice);
        rebuild.budget = 0;
        let many = vec![(vec![], hash, sha256); 20];
        shard::tests::read_bytes(&shard::tests::written(&many), &mut rebuild).unwrap();
        assert_eq!(rebuild.finished(), 20);
    }

    #[test]
    fn nothing_is_made_for_a_sender_that_is_gone() {
        let world = world();
        let mut rebuild = Rebuild::new(&world.staging, &world.staging.key("alice"));
        rebuild.stop().store(true, Ordering::Relaxed);
        let before = world.staging.used(&world.staging.key("alice"));
        let shard = shard::tests::written(std::slice::from_ref(&world.file));
        assert!(shard::tests::read_bytes(&shard, &mut rebuild).is_err());
        drop(rebuild);
        assert_eq!(world.staging.used(&world.staging.key("alice")), before);
    }

    #[test]
    fn makes_the_file_that_the_shard_says() {
        let world = world();
        assert_eq!(rebuild(&world, "alice", world.file.clone()).unwrap(), 1);
        let sha256 = hex::encode(Sha256::digest(&world.content));
        let staged = world
            .staging
            .object(&world.staging.key("alice"), &sha256)
            .unwrap();
        assert_eq!(std::fs::read(staged.path).unwrap(), world.content);
        let used = world.staging.used(&world.staging.key("alice"));
        // Again without its SHA-256: the same object, and nothing more is used.
        let (segments, hash, _) = world.file.clone();
        rebuild(&world, "alice", (segments, hash, None)).unwrap();
        assert_eq!(world.staging.used(&world.staging.key("alice")), used);
    }

    #[test]
    fn another_callers_xorbs_give_nothing() {
        let world = world();
        assert!(rebuild(&world, "bob", world.file.clone()).is_err());
        assert_eq!(world.staging.used(&world.staging.key("bob")), 0);
    }

    #[test]
    fn refuses_every_wrong_word_of_a_shard() {
        let world = world();
        let faults: [fn(&mut Listed); 8] = [
            |file| file.0[0].end = 4,
            |file| file.0[0].first = 3,
            |file| file.0[0].first = 0,
            |file| file.0[0].bytes += 1,
            |file| file.0[1].xorb.0[0] ^= 1,
            |file| file.0.swap(0, 1),
            |file| file.1.0[0] ^= 1,
            |file| file.2 = Some(XetHash::default()),
        ];
        // The whole one is refused by nothing, so each fault is what is refused.
        assert!(rebuild(&world, "alice", world.file.clone()).is_ok());
        world.staging.forget(
            &world.staging.key("alice"),
            &hex::encode(Sha256::digest(&world.content)),
        );
        let before = world.staging.used(&world.staging.key("alice"));
        for (n, fault) in faults.into_iter().enumerate() {
            let mut file = world.file.clone();
            fault(&mut file);
            assert!(rebuild(&world, "alice", file).is_err(), "fault {n}");
        }
        assert_eq!(world.staging.used(&world.staging.key("alice")), before);
    }
}
