//! What nobody knows is thrown out: gone, counted as lost, and kept for a while.

use std::time::Duration;

use dfs_core::id::SlotId;
use dfs_disk::{Access, Disk, Io};

use super::{SLOT, chunk, dir, fresh, put, put_big, read_well, reopen};

fn trash(disk: &dyn Disk) -> Vec<String> {
    let mut names: Vec<String> =
        disk.read_dir(&dir().join("trash")).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn what_is_thrown_out_is_gone_for_good_and_counts_as_a_loss() {
    let (disk, store) = fresh();
    let (small, big, stays) = (chunk(1, 500), chunk(2, 40_000), chunk(3, 700));
    let before = put(&store, SLOT, &small).unwrap().losses;
    put_big(&store, SLOT, &big).unwrap();
    put(&store, SLOT, &stays).unwrap();
    let thrown = store.throw_out(SLOT, &[small.0, big.0], Some(Duration::from_secs(1000))).unwrap().unwrap();
    assert!(thrown.count == 2 && thrown.error.is_none());
    assert!(thrown.loss > before, "an answer from before must not count any more");
    assert_eq!((store.stat(SLOT, small.0), store.stat(SLOT, big.0)), (None, None));
    // The bytes are kept: a big chunk as its file, of a small one the bytes alone.
    let names = trash(&disk);
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|n| n.starts_with("00000000000003e8-00000003-")), "{names:?}");
    let name = names.iter().find(|n| n.contains(&small.0.to_string())).unwrap();
    let file = disk.open(&dir().join("trash").join(name), Access::Read, Io::Buffered).unwrap();
    let mut bytes = vec![0; 500];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 500);
    assert_eq!(bytes, small.1);

    let (store, report) = reopen(&disk).unwrap();
    assert_eq!(report.damages, 0);
    assert_eq!((store.stat(SLOT, small.0), store.stat(SLOT, big.0)), (None, None));
    read_well(&store, SLOT, &stays);
    // The same bytes can be put again, with the number of the loss.
    assert!(matches!(put(&store, SLOT, &small), Ok(done) if !done.existed && done.losses >= thrown.loss));
    assert!(matches!(put_big(&store, SLOT, &big), Ok(done) if !done.existed && done.losses >= thrown.loss));
    assert!(store.note_loss().unwrap() > thrown.loss);
}

#[test]
fn the_trash_is_emptied_of_what_is_old() {
    let (disk, store) = fresh();
    assert_eq!(store.empty_trash(Duration::from_secs(5000)).unwrap(), 0);
    for (n, at) in [(1, 1000), (2, 2000), (3, 3000)] {
        let chunk = chunk(n, 20_000);
        put_big(&store, SLOT, &chunk).unwrap();
        store.throw_out(SLOT, &[chunk.0], Some(Duration::from_secs(at))).unwrap().unwrap();
    }
    assert_eq!(store.empty_trash(Duration::from_secs(1000)).unwrap(), 0);
    assert_eq!(store.empty_trash(Duration::from_secs(2001)).unwrap(), 2);
    assert_eq!(trash(&disk).len(), 1);
    // What is thrown out for good leaves nothing there.
    let gone = chunk(4, 30_000);
    put_big(&store, SLOT, &gone).unwrap();
    store.throw_out(SLOT, &[gone.0], None).unwrap().unwrap();
    assert_eq!(trash(&disk).len(), 1);
}

#[test]
fn nothing_is_thrown_out_for_a_metad_that_is_not_trusted() {
    let (disk, store) = fresh();
    let a = chunk(1, 500);
    put(&store, SLOT, &a).unwrap();
    store.set_untrusted().unwrap();
    assert!(store.throw_out(SLOT, &[a.0], None).unwrap().is_none());
    assert!(store.throw_out(SLOT, &[a.0], Some(Duration::ZERO)).unwrap().is_none());
    read_well(&store, SLOT, &a);
    assert!(trash(&disk).is_empty());
}

#[test]
fn the_scrub_walks_over_all_slots_and_remembers_where_it_is() {
    let (disk, store) = fresh();
    let mut all = Vec::new();
    for (slot, n) in [(1, 10), (1, 11), (3, 12), (3, 13), (9, 14)] {
        let one = chunk(n, 300 + n as usize);
        put(&store, SlotId(slot), &one).unwrap();
        all.push((SlotId(slot), one.0, 300 + n as u32));
    }
    all.sort();
    let (mut seen, mut after) = (Vec::new(), store.scrubbed());
    assert_eq!(after, None);
    loop {
        let page = store.list_after(after, 2);
        let Some((slot, id, _)) = page.last().copied() else { break };
        after = Some((slot, id));
        seen.extend(page);
    }
    assert_eq!(seen, all);
    store.set_scrubbed(after).unwrap();
    assert_eq!(store.scrubbed(), after);
    let (store, _) = reopen(&disk).unwrap();
    assert_eq!(store.scrubbed(), after);
    // A torn note means the start.
    let file = disk.open(&dir().join("scrubbed"), Access::ReadWrite, Io::Buffered).unwrap();
    file.write_at(&[0xff], 7).unwrap();
    assert_eq!(store.scrubbed(), None);
    store.set_scrubbed(None).unwrap();
    store.set_scrubbed(None).unwrap();
    assert_eq!(store.scrubbed(), None);
}
