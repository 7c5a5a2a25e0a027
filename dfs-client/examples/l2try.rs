//! temporary
use bytes::Bytes;
use dfs_client::config::ClientConfig;
use dfs_client::vfs::{Caller, Vfs};
use dfs_core::id::Ino;
use dfs_core::name::Name;
use dfs_core::op::SetAttr;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn n(s: &str) -> Name {
    Name::new(s.as_bytes()).unwrap()
}
async fn wr(v: &Arc<Vfs>, fh: u64, at: u64, d: &[u8]) {
    let mut done = 0;
    while done < d.len() {
        let e = (done + (1 << 20)).min(d.len());
        let part = &d[done..e];
        let r = match v.try_write(fh, at + done as u64, part, false) {
            Some(r) => r,
            None => v.write(fh, at + done as u64, Bytes::copy_from_slice(part), false).await,
        };
        done += r.unwrap() as usize;
    }
}
async fn rd(v: &Arc<Vfs>, fh: u64, at: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < len {
        let l = (len - out.len()).min(1 << 17) as u32;
        let b = match v.try_read(fh, at + out.len() as u64, l) {
            Some(r) => r,
            None => v.read(fh, at + out.len() as u64, l).await,
        }
        .unwrap();
        if b.is_empty() {
            break;
        }
        out.extend_from_slice(&b);
    }
    out
}
#[tokio::main]
async fn main() {
    tracing_subscriber_init();
    let meta = std::env::args().nth(1).unwrap();
    let cfg = ClientConfig { meta, ..Default::default() };
    let v = Vfs::connect(cfg.clone()).await.unwrap();
    let w = Vfs::connect(cfg.clone()).await.unwrap();
    let who = Caller { uid: 0, gid: 0, umask: 0o022 };
    let seed: u64 = std::env::args().nth(2).map_or(1, |s| s.parse().unwrap());
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let top = v.mkdir(who, Ino::ROOT, &n(&format!("t{}", rand::random::<u32>())), 0o755).await.unwrap().attr.ino;
    let t = Instant::now();
    let (e, o) = v.create(who, top, &n("a"), 0o666, libc::O_RDWR).await.unwrap();
    assert_eq!(e.attr.mode, 0o644);
    println!("create {:?}", t.elapsed());
    for _ in 0..3 {
        wr(&v, o.fh, 0, &[7u8; 4096]).await;
        let t = Instant::now();
        v.fsync(o.fh).await.unwrap();
        println!("fsync 4K {:?}", t.elapsed());
    }
    assert_eq!(v.getattr(e.attr.ino).await.unwrap().attr.size, 4096);
    let e2 = w.lookup(top, &n("a")).await.unwrap();
    assert_eq!(e2.attr.size, 4096);
    let o2 = w.open(e2.attr.ino, 0).await.unwrap();
    let t = Instant::now();
    assert_eq!(rd(&w, o2.fh, 0, 10000).await, vec![7u8; 4096]);
    println!("cold read {:?}", t.elapsed());
    // rename over
    let (e3, o3) = v.create(who, top, &n("tmp"), 0o666, libc::O_RDWR).await.unwrap();
    wr(&v, o3.fh, 0, b"hello").await;
    let t = Instant::now();
    v.rename(who, top, &n("tmp"), top, &n("a"), 0).await.unwrap();
    println!("rename dirty {:?}", t.elapsed());
    v.flush(o3.fh).unwrap();
    v.release(o3.fh);
    let _ = e3;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let e4 = w.lookup(top, &n("a")).await.unwrap();
    assert_eq!(e4.attr.size, 5);
    let o4 = w.open(e4.attr.ino, 0).await.unwrap();
    assert_eq!(rd(&w, o4.fh, 0, 100).await, b"hello");
    assert_eq!(rd(&w, o2.fh, 0, 10000).await, vec![7u8; 4096], "open but replaced");
    assert_eq!(rd(&v, o.fh, 0, 10000).await, vec![7u8; 4096], "open but replaced");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(rd(&v, o.fh, 0, 10000).await, vec![7u8; 4096], "open but replaced, later");
    v.release(o.fh);
    w.release(o2.fh);
    w.release(o4.fh);
    // small files
    let d = v.mkdir(who, top, &n("small"), 0o755).await.unwrap().attr.ino;
    let t = Instant::now();
    for i in 0..2000u32 {
        let (_, o) = v.create(who, d, &n(&format!("f{i}")), 0o644, libc::O_RDWR).await.unwrap();
        wr(&v, o.fh, 0, &vec![(i % 251) as u8; 100 + (i as usize * 7) % 6000]).await;
        v.flush(o.fh).unwrap();
        v.release(o.fh);
    }
    println!("2000 creates {:?}", t.elapsed());
    let t = Instant::now();
    v.sync_all().await.unwrap();
    println!("sync_all {:?}", t.elapsed());
    let t = Instant::now();
    let dh = w.opendir(d).await.unwrap();
    let (mut cookie, mut items) = (0, Vec::new());
    loop {
        let some = w.readdir(dh, cookie, true, 100).await.unwrap();
        if some.is_empty() {
            break;
        }
        cookie = some.last().unwrap().cookie_after;
        items.extend(some);
    }
    assert_eq!(items.len(), 2002);
    println!("readdirplus {:?}", t.elapsed());
    let t = Instant::now();
    for it in &items[2..] {
        let i: usize = std::str::from_utf8(&it.name[1..]).unwrap().parse().unwrap();
        let o = w.open(it.ino, 0).await.unwrap();
        let b = rd(&w, o.fh, 0, 100_000).await;
        assert_eq!(b, vec![(i % 251) as u8; 100 + (i * 7) % 6000]);
        w.release(o.fh);
    }
    println!("read 2000 {:?}", t.elapsed());
    // big
    let mut big = vec![0u8; 200 << 20];
    rng.fill(&mut big[..]);
    let (e, o) = v.create(who, top, &n("big"), 0o644, libc::O_RDWR).await.unwrap();
    let t = Instant::now();
    wr(&v, o.fh, 0, &big).await;
    println!("write 200M {:?}", t.elapsed());
    v.fsync(o.fh).await.unwrap();
    println!("+fsync {:?}", t.elapsed());
    let o2 = w.open(e.attr.ino, 0).await.unwrap();
    let t = Instant::now();
    assert!(rd(&w, o2.fh, 0, big.len() + 5).await == big);
    println!("read 200M {:?}", t.elapsed());
    let t = Instant::now();
    for _ in 0..200 {
        let at = rng.random_range(0..big.len() - 4096);
        assert_eq!(rd(&w, o2.fh, at as u64, 4096).await, &big[at..at + 4096]);
    }
    println!("200 random reads {:?}", t.elapsed());
    for _ in 0..2000 {
        let at = rng.random_range(0..big.len() - 4096);
        let b = [rng.random::<u8>(); 4096];
        wr(&v, o.fh, at as u64, &b).await;
        big[at..at + 4096].copy_from_slice(&b);
    }
    let t = Instant::now();
    v.fsync(o.fh).await.unwrap();
    println!("fsync 2000 random 4K {:?}", t.elapsed());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(rd(&w, o2.fh, 0, big.len() + 5).await == big);
    assert!(rd(&v, o.fh, 0, big.len() + 5).await == big);
    if std::env::args().nth(3).is_some() {
        for r in 0..3 {
        let x = Vfs::connect(cfg.clone()).await.unwrap();
        x.lookup(top, &n("big")).await.unwrap();
        let o = x.open(e.attr.ino, 0).await.unwrap();
        let (mut hits, mut slow, mut sum, mut worst) = (0, 0, Duration::ZERO, Duration::ZERO);
        let t = Instant::now();
        for at in (0..200u64 << 20).step_by(1 << 17) {
            if x.try_read(o.fh, at, 1 << 17).is_some() { hits += 1; continue }
            let t = Instant::now();
            x.read(o.fh, at, 1 << 17).await.unwrap();
            slow += 1; sum += t.elapsed(); worst = worst.max(t.elapsed());
        }
        println!("run {r}: {:?}, hits {hits} slow {slow} in {sum:?} worst {worst:?}", t.elapsed());
        x.shutdown().await.unwrap();
        }
        return;
    }
    // model
    let mut files: HashMap<u32, (Ino, u64, Vec<u8>)> = HashMap::new();
    let t = Instant::now();
    let mut ops = 0;
    while t.elapsed() < Duration::from_secs(20) {
        ops += 1;
        let k = rng.random_range(0..8u32);
        if let std::collections::hash_map::Entry::Vacant(slot) = files.entry(k) {
            let (e, o) = v.create(who, top, &n(&format!("m{k}")), 0o644, libc::O_RDWR | libc::O_EXCL).await.unwrap();
            slot.insert((e.attr.ino, o.fh, Vec::new()));
        }
        let (ino, fh, model) = files.get_mut(&k).unwrap();
        match rng.random_range(0..100) {
            0..50 => {
                let at = if rng.random_bool(0.5) { model.len() } else { rng.random_range(0..=model.len() + 1000) };
                let len = match rng.random_range(0..4) {
                    0 => 4096,
                    1 => rng.random_range(1..200_000),
                    2 => 131072,
                    _ => rng.random_range(1..3_000_000),
                };
                if at + len < 80 << 20 {
                    let mut b = vec![0; len];
                    rng.fill(&mut b[..]);
                    if model.len() < at + len {
                        model.resize(at + len, 0);
                    }
                    model[at..at + len].copy_from_slice(&b);
                    wr(&v, *fh, at as u64, &b).await;
                }
            }
            50..75 => {
                if !model.is_empty() {
                    let at = rng.random_range(0..model.len());
                    let len = rng.random_range(1..1_000_000);
                    let got = rd(&v, *fh, at as u64, len).await;
                    assert!(
                        got == model[at..(at + len).min(model.len())],
                        "file {k} ino {ino} at {at} len {len} got {}",
                        got.len()
                    );
                }
            }
            75..80 => v.fsync(*fh).await.unwrap(),
            80..84 => {
                let size = rng.random_range(0..=model.len() + 5000);
                let size = if rng.random_bool(0.3) { 0 } else { size };
                let e = v.setattr(*ino, SetAttr { size: Some(size as u64), ..Default::default() }).await.unwrap();
                assert_eq!(e.attr.size, size as u64);
                model.resize(size, 0);
            }
            84..90 => {
                v.fsync(*fh).await.unwrap();
                tokio::time::sleep(cfg.ttl).await;
                let o = w.open(*ino, 0).await.unwrap();
                assert!(rd(&w, o.fh, 0, model.len() + 10).await == *model, "other mount, file {k}");
                w.release(o.fh);
            }
            90..93 => {
                v.flush(*fh).unwrap();
                let k2 = rng.random_range(0..8u32);
                if k2 != k {
                    let me = files.remove(&k).unwrap();
                    v.rename(who, top, &n(&format!("m{k}")), top, &n(&format!("m{k2}")), 0).await.unwrap();
                    if let Some((_, fh, _)) = files.insert(k2, me) {
                        v.release(fh);
                    }
                }
            }
            93..96 => {
                v.unlink(top, &n(&format!("m{k}"))).await.unwrap();
                let (_, fh, model) = files.remove(&k).unwrap();
                assert!(rd(&v, fh, 0, model.len() + 10).await == model, "unlinked but open");
                v.release(fh);
            }
            _ => assert_eq!(v.getattr(*ino).await.unwrap().attr.size, model.len() as u64),
        }
    }
    println!("model: {ops} ops");
    // append
    let (e, o) = v.create(who, top, &n("log"), 0o644, libc::O_WRONLY | libc::O_APPEND).await.unwrap();
    assert!(o.direct);
    for i in 0..100u8 {
        wr(&v, o.fh, 0, &[i; 10]).await;
    }
    assert_eq!(v.getattr(e.attr.ino).await.unwrap().attr.size, 1000);
    v.setxattr(e.attr.ino, b"user.x", b"1", 0).await.unwrap();
    assert_eq!(v.listxattr(e.attr.ino).await.unwrap(), vec![b"user.x".to_vec()]);
    println!("statfs {:?}", v.statfs().await.unwrap());
    v.shutdown().await.unwrap();
    let e = w.lookup(top, &n("log")).await.unwrap();
    let o = w.open(e.attr.ino, 0).await.unwrap();
    assert_eq!(rd(&w, o.fh, 0, 2000).await.len(), 1000);
    for (k, (_, _, model)) in &files {
        let e = w.lookup(top, &n(&format!("m{k}"))).await.unwrap();
        let o = w.open(e.attr.ino, 0).await.unwrap();
        assert!(rd(&w, o.fh, 0, model.len() + 10).await == *model, "after shutdown");
    }
    w.shutdown().await.unwrap();
    println!("OK");
}
fn tracing_subscriber_init() {}
