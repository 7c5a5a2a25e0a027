//! Both sides and what lies between: clients that stand still, streams that break, a metad that is killed. Whatever
//! happens, no client calls a name absent that is there.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::id::{Ino, SessionId};

const CLIENTS: usize = 3;
const DIRS: u64 = 2;
const NAMES: u64 = 3;

#[derive(Debug, Clone)]
enum Step {
    Tick(u64),
    /// So many messages of one client go up, so many down.
    Deliver(usize, usize, usize),
    Freeze(usize),
    Thaw(usize),
    /// The stream breaks; the client notices when it runs.
    Break(usize),
    Ask(usize, u64),
    Add(usize, u64, u64),
    Remove(u64, u64),
    /// A client takes in the oldest answer that it has put aside.
    Late(usize),
    /// metad lists the directory of its oldest lease that is not answered.
    List,
    /// metad is killed, and started again at once.
    Restart,
}

#[derive(Debug, Clone, PartialEq)]
enum Up {
    Hello,
    Beat(Duration),
    Ask(Ino, Asked),
    Returned(Ino),
    Add(u64, Ino, u64),
}

#[derive(Debug, Clone)]
enum Down {
    Echo(Duration),
    /// `None`: not lent.
    Lent(Ino, Asked, Option<Vec<u64>>),
    Recall(Ino),
    Done(u64),
}

#[derive(Debug, Default)]
struct Client {
    held: Held,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    broken: bool,
    frozen: bool,
    /// Leases without an answer.
    asking: Vec<(Ino, Asked)>,
    /// Answers that somebody else than the stream's reader will take in.
    late: VecDeque<(Ino, Asked, Option<Vec<u64>>)>,
    /// Changes without an answer: number, directory, name.
    open: Vec<(u64, Ino, u64)>,
    /// Its stream as metad counts them; 0: none.
    stream: u64,
    clock: Duration,
    beaten: Duration,
}

struct World {
    now: Duration,
    lent: Lent,
    /// metad's clock begins anew.
    began: Duration,
    pulsed: Duration,
    clients: Vec<Client>,
    present: BTreeSet<(Ino, u64)>,
    /// Changes that metad has begun: whose, number, directory, name.
    waiting: Vec<(usize, u64, Ino, u64)>,
    applied: BTreeSet<u64>,
    /// Leases that metad has lent or refused, and not answered: whose, on which stream.
    listing: VecDeque<(usize, u64, Ino, Asked, bool)>,
    streams: u64,
    changes: u64,
    answers: u64,
}

fn session(client: usize) -> SessionId {
    SessionId(client as u64 + 1)
}

impl World {
    fn new() -> Self {
        let clock = |n| Duration::from_secs(1000 * n as u64);
        let mut world = Self {
            now: Duration::from_secs(10),
            lent: Lent::new([], Duration::ZERO),
            began: Duration::ZERO,
            pulsed: Duration::ZERO,
            clients: (0..CLIENTS).map(|n| Client { clock: clock(n), ..Client::default() }).collect(),
            present: BTreeSet::new(),
            waiting: Vec::new(),
            applied: BTreeSet::new(),
            listing: VecDeque::new(),
            streams: 0,
            changes: 0,
            answers: 0,
        };
        for n in 0..CLIENTS {
            world.connect(n);
            world.deliver(n, 10, 10);
        }
        world
    }

    fn time(&self) -> Duration {
        self.now - self.began
    }

    /// A client that noticed that its stream broke.
    fn connect(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.held.lost();
        client.broken = false;
        client.stream = 0;
        client.up = VecDeque::from([Up::Hello]);
        client.up.extend(client.open.iter().map(|(id, dir, name)| Up::Add(*id, *dir, *name)));
        client.up.extend(client.asking.iter().map(|(dir, asked)| Up::Ask(*dir, *asked)));
        client.down.clear();
    }

    fn break_stream(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.broken = true;
        // What was on its way may have arrived or not: what is left of it is never read.
        client.up.clear();
        client.stream = 0;
    }

    fn send(&mut self, n: usize, message: Down) {
        if self.clients[n].stream != 0 {
            self.clients[n].down.push_back(message);
        }
    }

    fn metad_takes(&mut self, n: usize, message: Up) {
        let (now, stream) = (self.time(), self.clients[n].stream);
        match message {
            Up::Hello => {
                self.streams += 1;
                self.clients[n].stream = self.streams;
                assert!(self.lent.attach(session(n), self.streams, now).is_some());
                assert!(self.lent.attach(session(n), self.streams - 1, now).is_none(), "it is late");
            }
            Up::Beat(at) => self.lent.beat(session(n), stream, at.as_millis() as u64, now),
            Up::Ask(dir, asked) => {
                let lent = self.lent.lend(session(n), stream, dir, now);
                self.listing.push_back((n, stream, dir, asked, lent));
            }
            Up::Returned(dir) => {
                let frees = self.lent.returned(session(n), stream, dir);
                assert_eq!(frees, self.waiting.iter().any(|(_, _, at, _)| *at == dir) && stream != 0);
            }
            Up::Add(id, dir, name) => {
                for (by, dir) in self.lent.change(session(n), &[dir], now) {
                    self.send(by.0 as usize - 1, Down::Recall(dir));
                }
                self.waiting.push((n, id, dir, name));
            }
        }
    }

    fn list(&mut self) {
        let Some((n, stream, dir, asked, lent)) = self.listing.pop_front() else { return };
        if stream == self.clients[n].stream {
            let names = self.present.iter().filter(|(at, _)| *at == dir).map(|(_, name)| *name).collect();
            self.send(n, Down::Lent(dir, asked, lent.then_some(names)));
        }
    }

    fn metad_works(&mut self) {
        let now = self.time();
        for (n, id, dir, name) in std::mem::take(&mut self.waiting) {
            if self.lent.may_change(session(n), &[dir], now).is_err() {
                self.waiting.push((n, id, dir, name));
                continue;
            }
            if self.applied.insert(id) {
                self.present.insert((dir, name));
            }
            self.lent.done(session(n), &[dir]);
            self.send(n, Down::Done(id));
        }
        if now >= self.pulsed + Duration::from_secs(1) {
            self.pulsed = now;
            for n in 0..CLIENTS {
                if let Some(beat) = self.lent.echo(session(n), self.clients[n].stream) {
                    self.send(n, Down::Echo(Duration::from_millis(beat)));
                }
            }
        }
    }

    fn client_takes(&mut self, n: usize, message: Down) {
        let client = &mut self.clients[n];
        let now = self.now + client.clock;
        match message {
            Down::Echo(at) => client.held.echoed(at, now),
            Down::Lent(dir, asked, names) => {
                client.asking.retain(|open| *open != (dir, asked));
                client.late.push_back((dir, asked, names));
            }
            Down::Recall(dir) => {
                client.held.forget(dir);
                client.up.push_back(Up::Returned(dir));
            }
            Down::Done(id) => {
                if let Some(at) = client.open.iter().position(|(open, ..)| *open == id) {
                    let (_, dir, name) = client.open.swap_remove(at);
                    client.held.added(dir, name);
                }
            }
        }
    }

    fn take_late(&mut self, n: usize) {
        let client = &mut self.clients[n];
        match client.late.pop_front() {
            Some((dir, asked, Some(names))) => {
                let back = client.held.granted(dir, asked, names);
                client.up.extend(back.into_iter().map(Up::Returned));
            }
            Some((dir, _, None)) => {
                client.held.forget(dir);
                client.up.push_back(Up::Returned(dir));
            }
            None => {}
        }
    }

    fn deliver(&mut self, n: usize, up: usize, down: usize) {
        for _ in 0..up {
            let Some(message) = self.clients[n].up.pop_front() else { break };
            self.metad_takes(n, message);
        }
        self.metad_works();
        for _ in 0..down {
            if self.clients[n].frozen || self.clients[n].broken {
                break;
            }
            let Some(message) = self.clients[n].down.pop_front() else { break };
            self.client_takes(n, message);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Tick(ms) => self.now += Duration::from_millis(ms),
            Step::Deliver(n, up, down) => self.deliver(n, up, down),
            Step::Freeze(n) => self.clients[n].frozen = true,
            Step::Thaw(n) => self.clients[n].frozen = false,
            Step::Break(n) => self.break_stream(n),
            Step::Ask(n, dir) if self.clients[n].runs() => {
                if let Some(asked) = self.clients[n].held.ask(Ino(dir)) {
                    self.clients[n].asking.push((Ino(dir), asked));
                    self.clients[n].up.push_back(Up::Ask(Ino(dir), asked));
                }
            }
            Step::Add(n, dir, name) if self.clients[n].runs() => {
                self.changes += 1;
                let client = &mut self.clients[n];
                let back = client.held.adding(Ino(dir), name);
                assert!(back.is_empty());
                client.open.push((self.changes, Ino(dir), name));
                client.up.push_back(Up::Add(self.changes, Ino(dir), name));
            }
            Step::Late(n) if !self.clients[n].frozen => self.take_late(n),
            Step::Ask(..) | Step::Add(..) | Step::Late(_) => {}
            Step::List => self.list(),
            Step::Remove(dir, name) => {
                self.present.remove(&(Ino(dir), name));
            }
            Step::Restart => {
                (0..CLIENTS).for_each(|n| self.break_stream(n));
                self.waiting.clear();
                self.listing.clear();
                self.began = self.now;
                self.pulsed = Duration::ZERO;
                self.lent = Lent::new((0..CLIENTS).map(session), Duration::ZERO);
            }
        }
        for n in 0..CLIENTS {
            let client = &mut self.clients[n];
            if client.runs() && self.now >= client.beaten + Duration::from_secs(1) {
                client.beaten = self.now;
                client.up.push_back(Up::Beat(self.now + client.clock));
            } else if client.broken && !client.frozen && matches!(step, Step::Deliver(m, ..) if *m == n) {
                self.connect(n);
            }
        }
    }

    /// Even one that stands still or was cut off may say so in the next moment.
    fn check(&mut self) {
        for (n, client) in self.clients.iter_mut().enumerate() {
            for (dir, name) in (0..DIRS).flat_map(|dir| (0..NAMES).map(move |name| (Ino(dir), name))) {
                if client.held.is_absent(dir, name, self.now + client.clock) {
                    self.answers += 1;
                    assert!(!self.present.contains(&(dir, name)), "client {n} says that {name} is not in {dir}");
                }
            }
        }
    }
}

impl Client {
    fn runs(&self) -> bool {
        !self.frozen && !self.broken
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (who, dir, name) = (0..CLIENTS, 0..DIRS, 0..NAMES);
    prop_oneof![
        6 => (1..900u64).prop_map(Step::Tick),
        12 => (who.clone(), 0..4usize, 0..4usize).prop_map(|(n, up, down)| Step::Deliver(n, up, down)),
        1 => who.clone().prop_map(Step::Freeze),
        2 => who.clone().prop_map(Step::Thaw),
        1 => who.clone().prop_map(Step::Break),
        4 => (who.clone(), dir.clone()).prop_map(|(n, dir)| Step::Ask(n, dir)),
        4 => who.clone().prop_map(Step::Late),
        3 => (who, dir.clone(), name.clone()).prop_map(|(n, dir, name)| Step::Add(n, dir, name)),
        3 => (dir, name).prop_map(|(dir, name)| Step::Remove(dir, name)),
        5 => Just(Step::List),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_client_calls_a_name_absent_that_is_there(steps in prop::collection::vec(step(), 1..160)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        // Whoever waits does so for a time that has an end, as long as nobody new comes.
        for _ in 0..40 {
            world.now += Duration::from_millis(250);
            world.metad_works();
            world.check();
        }
        prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);
    }
}

/// A client with a lease on directory 1, in which `listed` is, and metad.
fn leased(listed: &[u64]) -> World {
    let mut world = World::new();
    world.present.extend(listed.iter().map(|name| (Ino(1), *name)));
    world.step(&Step::Tick(1000));
    world.step(&Step::Ask(0, 1));
    world.deliver(0, 10, 10);
    world.list();
    world.deliver(0, 10, 10);
    world.take_late(0);
    world.step(&Step::Tick(1000));
    (0..CLIENTS).for_each(|n| world.deliver(n, 10, 10));
    world
}

#[test]
fn what_is_leased_is_known_without_asking_and_what_is_not_is_not() {
    let mut world = leased(&[2]);
    let now = world.now + world.clients[0].clock;
    let held = &mut world.clients[0].held;
    assert!(held.is_absent(Ino(1), 0, now) && !held.is_absent(Ino(1), 2, now));
    assert!(!held.is_absent(Ino(0), 0, now), "of another directory");
    assert_eq!(held.adding(Ino(1), 0), []);
    assert!(!held.is_absent(Ino(1), 0, now));
    held.added(Ino(1), 0);
    assert!(!held.is_absent(Ino(1), 0, now), "it may be there now");
    assert!(held.is_absent(Ino(1), 1, now) && !held.is_absent(Ino(1), 1, now + LEASE));
    assert_eq!(held.ask(Ino(1)), None, "it is leased already");
    world.clients[0].held.lost();
    assert!(!world.clients[0].held.is_absent(Ino(1), 1, now));
}

#[test]
fn a_change_waits_for_the_lease_of_another_and_not_for_its_own() {
    let mut world = leased(&[]);
    world.step(&Step::Add(0, 1, 0));
    world.deliver(0, 10, 0);
    assert!(world.waiting.is_empty() && world.lent.count() == 1);
    world.step(&Step::Add(1, 1, 1));
    world.deliver(1, 10, 0);
    assert_eq!(world.waiting.len(), 1);
    world.step(&Step::Ask(2, 1));
    world.deliver(2, 10, 0);
    world.list();
    assert!(matches!(world.clients[2].down.back(), Some(Down::Lent(_, _, None))), "somebody waits to change it");
    world.deliver(0, 0, 10);
    world.deliver(0, 10, 0);
    assert!(world.waiting.is_empty() && world.lent.count() == 0);
}

#[test]
fn one_that_beats_and_does_not_give_back_is_not_waited_for_for_ever() {
    let mut world = leased(&[]);
    world.step(&Step::Add(1, 1, 1));
    world.deliver(1, 10, 0);
    let began = world.now;
    while !world.waiting.is_empty() {
        world.now += Duration::from_millis(100);
        let (now, at) = (world.time(), world.now + world.clients[0].clock);
        world.lent.beat(session(0), world.clients[0].stream, at.as_millis() as u64, now);
        world.metad_works();
        assert!(world.now < began + 2 * LEASE + 2 * SLACK);
    }
    assert!(world.now >= began + LEASE);
}

#[test]
fn what_is_not_used_is_given_back_when_there_is_too_much() {
    let mut held = Held::default();
    for dir in 0..HELD as u64 {
        let asked = held.ask(Ino(dir)).unwrap();
        assert_eq!(held.granted(Ino(dir), asked, [1]), []);
    }
    held.echoed(Duration::ZERO, Duration::ZERO);
    assert!(held.is_absent(Ino(0), 2, Duration::ZERO));
    let asked = held.ask(Ino(5000)).unwrap();
    assert_eq!(held.granted(Ino(5000), asked, [1]), [Ino(1)]);
    // One directory that grows beyond all bounds is forgotten itself in the end.
    let mut given = Vec::new();
    for name in 0..=1 << 18 {
        given.extend(held.adding(Ino(5000), name));
        held.added(Ino(5000), name);
    }
    assert!(given.contains(&Ino(5000)) || given.len() > HELD - 10, "{}", given.len());
    assert!(!held.is_absent(Ino(1), 2, Duration::ZERO));
}
