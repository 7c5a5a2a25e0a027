use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use dfs_core::chunk::ChunkId;
use dfs_disk::crash::{CrashDisk, Survive};
use proptest::prelude::{ProptestConfig, any, proptest};

use super::format::{ENTRIES, TABLE_BYTES};
use super::ring::Ring;
use super::*;

const DIR: &str = "/cache";
const FILE: &str = "/cache/pieces";

fn key(n: u32) -> PieceKey {
    let mut id = [0; 32];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut id);
    PieceKey { id: ChunkId(id), number: n % 3 }
}

/// What piece `n` has always.
fn content(n: u32, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"content").update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
    Bytes::from(out)
}

/// Lengths of all kinds: of a small file, a patch, a piece.
fn len(n: u32) -> usize {
    [700, 4096, 20_000, 128 << 10, 1 << 20][n as usize % 5] + (n as usize % 7)
}

fn piece(n: u32) -> (PieceKey, Bytes) {
    (key(n), content(n, len(n).min(1 << 20)))
}

fn create(disk: &CrashDisk) -> Arc<dyn DiskFile> {
    disk.create_dir(Path::new(DIR)).unwrap();
    let file = disk.create(Path::new(FILE), Io::Buffered).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

fn load(file: &Arc<dyn DiskFile>, regions: usize) -> (Shared, Ring) {
    let shared = Shared::new(file.clone(), None);
    let ring = Ring::load(file.clone(), shared.index.clone(), regions, &|| true).unwrap();
    (shared, ring)
}

/// Reads a piece, whole and in part: it is missing or right. Whether it was there.
fn look(shared: &Shared, n: u32) -> bool {
    let (key, want) = piece(n);
    let whole = want.len() as u32;
    let mut there = true;
    for (from, len) in [(whole / 2, (whole - whole / 2).min(4096)), (0, whole)] {
        let place = shared.index.get(Index::name(&key));
        let window = place.and_then(|place| Window::of(place.len, from, len));
        let got = place.zip(window).and_then(|(place, window)| shared.read_slowly(&key, place, window));
        match got {
            Some(got) => assert!(got == want[from as usize..(from + len) as usize], "piece {n} is wrong"),
            None => there = false,
        }
    }
    there
}

#[test]
fn the_newest_stay_and_so_do_those_that_are_used_and_the_bound_holds() {
    let file = create(&CrashDisk::new());
    let regions = 4;
    let (shared, mut ring) = load(&file, regions);
    let big = |n: u32| (key(n), content(n, 1 << 20));
    for n in 0..200 {
        ring.write(&[big(n)]).unwrap();
        assert!(shared.index.get(Index::name(&key(7))).is_some() || n < 7, "what is used stays ({n})");
        assert!(file.len().unwrap() <= regions as u64 * REGION_BYTES);
        assert!(ring.bytes() <= regions as u64 * REGION_BYTES);
    }
    let there = |n: u32| shared.index.find(Index::name(&key(n))).is_some();
    assert!((175..200).all(there) && !there(0) && !there(100));
    assert_eq!(ring.evicted, 200 - shared.index.count() as u64);
    let (place, _) = shared.index.find(Index::name(&key(7))).unwrap();
    let window = Window::of(place.len, 0, 1 << 20).unwrap();
    assert_eq!(shared.read_slowly(&key(7), place, window).unwrap(), big(7).1);

    let (again, mut ring) = load(&file, regions);
    assert!((180..200).all(|n| again.index.find(Index::name(&key(n))).is_some()));
    for n in 200..300 {
        ring.write(&[big(n)]).unwrap();
    }
    assert!(file.len().unwrap() <= regions as u64 * REGION_BYTES);
    // A smaller one forgets what lies beyond its bound.
    let (small, _ring) = load(&file, 2);
    assert!(file.len().unwrap() <= 2 * REGION_BYTES && small.index.count() > 0);
}

#[test]
fn very_small_pieces_are_bounded_in_number() {
    let file = create(&CrashDisk::new());
    let (shared, mut ring) = load(&file, 3);
    let tiny: Vec<_> = (0..10_000).map(|n| (key(n), content(n, 10))).collect();
    for some in tiny.chunks(500) {
        ring.write(some).unwrap();
    }
    assert!(shared.index.count() <= 3 * ENTRIES && shared.index.count() > ENTRIES);
    assert!(shared.index.find(Index::name(&key(9999))).is_some());
    assert!(ring.bytes() < 3 * (TABLE_BYTES + ENTRIES as u64 * 512));
    // Twice the same is kept once.
    assert_eq!(ring.write(&[tiny[9999].clone(), (key(1), content(1, 10)), (key(1), content(1, 10))]).unwrap(), 10);
    assert_eq!(ring.write(&[(key(2), Bytes::new())]).unwrap(), 0);
}

#[test]
fn remounting_again_and_again_does_not_use_the_cache_up() {
    let file = create(&CrashDisk::new());
    for n in 0..20 {
        let (shared, mut ring) = load(&file, 3);
        assert!((0..n).all(|n| look(&shared, n)), "{n}");
        ring.write(&[piece(n)]).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn after_a_power_cut_what_is_there_is_right(at in 0_u64..120, seed in any::<u64>(), used in any::<u32>()) {
        let disk = CrashDisk::new();
        let file = create(&disk);
        let (shared, mut ring) = load(&file, 3);
        disk.crash_after(at);
        for n in 0..150 {
            if ring.write(&[piece(n), piece(n + 1000)]).is_err() {
                break;
            }
            look(&shared, used % (n + 1));
        }
        for survive in [Survive::Random(seed), Survive::Everything] {
            let left = disk.image(survive).open(Path::new(FILE), Access::ReadWrite, Io::Buffered).unwrap();
            let (shared, mut ring) = load(&left, 3);
            for n in (0..150).chain(1000..1150) {
                look(&shared, n);
            }
            // And it goes on from there.
            for n in 150..250 {
                ring.write(&[piece(n)]).unwrap();
                assert!(look(&shared, n), "{n}");
            }
            for n in 0..1150 {
                look(&shared, n);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_to_the_file_no_wrong_byte_is_read(
        cut in any::<u64>(),
        junk in proptest::collection::vec((any::<u64>(), any::<u32>(), 1_usize..20_000), 0..8),
        flips in proptest::collection::vec((any::<u64>(), 0_u8..8), 0..200),
        early in any::<bool>(),
    ) {
        let disk = CrashDisk::new();
        let file = create(&disk);
        let (shared, mut ring) = load(&file, 3);
        for n in 0..100 {
            ring.write(&[piece(n)]).unwrap();
        }
        let len = file.len().unwrap();
        // Half of them in tables, which are few among so many bytes.
        let at = |at: u64| if at.is_multiple_of(2) { at % len } else { at % 3 * REGION_BYTES + at / 3 % 4096 };
        for (place, seed, bytes) in junk {
            file.write_at(&content(seed, bytes), at(place)).unwrap();
        }
        for (place, bit) in flips {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at(place)).unwrap_or_default();
            file.write_at(&[byte[0] ^ 1 << bit], at(place)).unwrap();
        }
        if cut.is_multiple_of(2) {
            file.set_len(cut / 2 % len).unwrap();
        }
        let (shared, mut ring) = if early { (shared, ring) } else { load(&file, 3) };
        for n in 0..100 {
            look(&shared, n);
        }
        for n in 0..200 {
            ring.write(&[piece(n)]).unwrap();
            assert!(look(&shared, n), "{n}");
        }
        assert!(file.len().unwrap() <= 3 * REGION_BYTES + 20_000);
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_is_a_miss_that_heals() {
    let file = create(&CrashDisk::new());
    let (shared, mut ring) = load(&file, 3);
    let (key, bytes) = piece(2);
    ring.write(&[(key, bytes.clone())]).unwrap();
    for _ in 0..100 {
        let (place, _) = shared.index.find(Index::name(&key)).unwrap();
        let at = place.offset() + rand::random_range(0..bytes.len() as u64);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ 0x10], at).unwrap();
        assert!(!look(&shared, 2) && shared.index.count() == 0);
        ring.write(&[(key, bytes.clone())]).unwrap();
        assert!(look(&shared, 2));
    }
    assert!(look(&load(&file, 3).0, 2), "after a restart the good one counts");
}

async fn until_on(disk: &Disk, n: u32) {
    disk.keep(key(n), &piece(n).1);
    disk.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_what_it_has_and_is_tried_again() {
    let crash = CrashDisk::new();
    crash.set_capacity(Some(20 << 20));
    let disk = Disk::over(create(&crash), None, 200 << 20).unwrap();
    for n in 0..100 {
        until_on(&disk, n).await;
    }
    assert!(disk.shared.fills.is_off() && !disk.shared.reads.is_off());
    assert!(disk.has(&key(0)) && !disk.has(&key(99)));
    assert_eq!(disk.read(key(0), None).await.unwrap(), piece(0).1);
    crash.set_capacity(None);
    until_on(&disk, 99).await;
    assert!(!disk.has(&key(99)), "it rests");
    disk.shared.fills.end();
    until_on(&disk, 99).await;
    assert_eq!(disk.read(key(99), Some((5, 10))).await.unwrap(), piece(99).1[5..15]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_is_left_alone_for_a_while() {
    let crash = CrashDisk::new();
    let disk = Disk::over(create(&crash), None, 200 << 20).unwrap();
    until_on(&disk, 0).await;
    until_on(&disk, 1).await;
    crash.crash_after(0);
    until_on(&disk, 2).await;
    assert!(disk.shared.fills.is_off());
    assert_eq!(disk.read(key(0), None).await, None);
    assert!(disk.shared.reads.is_off() && !disk.has(&key(1)));
    assert_eq!(disk.read(key(1), None).await, None);
}

/// A disk that answers nothing for a while.
#[derive(Debug)]
struct Stuck {
    file: Arc<dyn DiskFile>,
    stuck: Mutex<bool>,
    freed: Condvar,
}

impl Stuck {
    fn set(&self, stuck: bool) {
        *self.stuck.lock().unwrap() = stuck;
        self.freed.notify_all();
    }

    fn wait(&self) {
        drop(self.freed.wait_while(self.stuck.lock().unwrap(), |stuck| *stuck).unwrap());
    }
}

impl DiskFile for Stuck {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.wait();
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.wait();
        self.file.write_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_holds_nobody_up_and_takes_no_memory() {
    let stuck =
        Arc::new(Stuck { file: create(&CrashDisk::new()), stuck: Mutex::new(false), freed: Condvar::default() });
    let disk = Disk::over(stuck.clone(), None, 200 << 20).unwrap();
    until_on(&disk, 0).await;
    stuck.set(true);
    let (began, big) = (Instant::now(), content(0, 1 << 20));
    for n in 1..200 {
        disk.keep(key(n), &big);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waits for the writer");
    assert!(disk.writer.waiting() <= 16 << 20);
    assert_eq!(disk.read(key(0), None).await, None);
    assert!(disk.shared.reads.is_off());
    let began = Instant::now();
    assert_eq!(disk.read(key(0), None).await, None);
    assert!(began.elapsed() < PATIENCE / 2, "the next one does not wait at all");
    stuck.set(false);
    disk.settle().await;
    disk.shared.reads.end();
    assert_eq!(disk.read(key(0), None).await.unwrap(), piece(0).1);
    assert!(disk.has(&key(5)) && !disk.has(&key(199)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_kept_over_restarts_and_stays_small() {
    let temp = tempfile::tempdir_in("/var/tmp").unwrap();
    let config = DiskCache { dir: temp.path().join("cache"), bytes: DiskCache::LEAST };
    let disk = Disk::open(&config).unwrap();
    disk.loaded().await;
    for n in 0..40 {
        disk.keep(key(n), &piece(n).1);
        disk.settle().await;
    }
    assert!(Disk::open(&config).is_err(), "it is in use");
    drop(disk);
    let disk = Disk::open(&config).unwrap();
    disk.loaded().await;
    for n in 0..40 {
        let (key, want) = piece(n);
        assert_eq!(disk.read(key, None).await.unwrap(), want);
        let at = want.len() as u32 - 100;
        assert_eq!(disk.read(key, Some((at, 100))).await.unwrap(), want[at as usize..]);
        assert_eq!(disk.read(key, Some((at, 101))).await, None);
    }
    assert_eq!(disk.read(key(40), None).await, None);
    for n in 100..300 {
        disk.keep(key(n), &content(n, 1 << 20));
        disk.settle().await;
    }
    let sizes = std::fs::read_dir(&config.dir).unwrap().map(|e| {
        use std::os::unix::fs::MetadataExt;
        let meta = e.unwrap().metadata().unwrap();
        meta.len().max(meta.blocks() * 512)
    });
    assert!(sizes.sum::<u64>() <= config.bytes);
}
