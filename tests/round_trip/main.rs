//! What a trapped access costs on this machine (docs/performance.md): our client and the device server with its test
//! device, beside a bare ping-pong and the `vfio_user` crate's Client and Server, all in one run.
//!
//! Every process is a real one. The runs alternate in short rounds, since the machine may be busy; a ratio is made of
//! two runs of one round. First all of it on one CPU, then with the peers on another.
//! Usage: bulkhead-round-trip ROUNDS JSON-FILE

mod bare;
mod confined;
mod crate_peer;
mod cpus;
#[path = "../bench/figures.rs"]
#[expect(dead_code, reason = "limits that only scripts/bench has")]
mod figures;
mod ours;
mod used;

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use confined::Pair;
use cpus::Cpus;
use figures::{Figures, Limit};
use ours::{Deadlines, Ours};

const USAGE: &str = "usage: bulkhead-round-trip ROUNDS JSON-FILE";
/// Round trips of one run, and messages of one one-way run.
const TRIPS: usize = 4000;
const MESSAGES: usize = 20_000;
/// Of the medians on one CPU.
const MAX_RATIO: f64 = 1.10;
const MIN_POSTED_RATIO: f64 = 0.85;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo"] => bare::echo(),
        ["sink"] => bare::sink(),
        [rounds, json] => measure(rounds.parse().context(USAGE)?, json),
        _ => anyhow::bail!(USAGE),
    }
}

fn measure(rounds: usize, json: &str) -> Result<()> {
    ensure!(rounds > 0, USAGE);
    let mut figures = Figures::default();
    // Before there is another server to share its pages with.
    Pair::memory(&mut figures)?;
    let mut peers = Peers::start()?;
    for cpus in Cpus::both()? {
        for process in peers.pids() {
            cpus.pin_peer(process)?;
        }
        cpus.pin_self()?;
        // Caches, page tables and branch predictors.
        peers.round(cpus, &mut Figures::default())?;
        for round in 0..rounds {
            if round % 10 == 0 {
                eprintln!("round-trip: {}, round {round} of {rounds}", cpus.name());
            }
            peers.round(cpus, &mut figures)?;
        }
    }
    let one = Cpus::One.name();
    figures.limit(&format!("{READ_RATIO}, {one}"), "", Limit::Below(MAX_RATIO));
    figures.limit(
        &format!("{POSTED_RATIO}, {one}"),
        "",
        Limit::AtLeast(MIN_POSTED_RATIO),
    );
    confined::limits(&mut figures);
    println!("{}", figures.table());
    std::fs::write(json, figures.json()?).with_context(|| format!("write {json}"))?;
    figures.limits_kept()
}

const READ_RATIO: &str = "4-byte read p50, ours / ping-pong";
const TIMERS_RATIO: &str = "4-byte read p50, ours with timers / ping-pong";
const POSTED_RATIO: &str = "posted writes, ours / bare";

struct Peers {
    ping_pong: bare::Child,
    stream: bare::Child,
    ours: Ours,
    with_timers: Ours,
    theirs: crate_peer::Crate,
    confined: Pair,
}

impl Peers {
    fn start() -> Result<Self> {
        Ok(Self {
            ping_pong: bare::Child::start("echo")?,
            stream: bare::Child::start("sink")?,
            // As the bare ones are. What the sandbox adds is measured by itself.
            ours: Ours::start(Deadlines::Watched, confined::OFF)?,
            with_timers: Ours::start(Deadlines::Timers, confined::OFF)?,
            theirs: crate_peer::Crate::start()?,
            confined: Pair::start()?,
        })
    }

    fn pids(&self) -> [u32; 7] {
        let [on, off] = self.confined.pids();
        [
            on,
            off,
            self.ping_pong.pid(),
            self.stream.pid(),
            self.ours.pid(),
            self.with_timers.pid(),
            self.theirs.pid(),
        ]
    }

    fn round(&mut self, cpus: Cpus, figures: &mut Figures) -> Result<()> {
        let at = cpus.name();
        let bare = Times::of(|| self.ping_pong.ping_pong())?;
        let ours = Times::of(|| self.ours.read())?;
        let with_timers = Times::of(|| self.with_timers.read())?;
        let theirs = Times::of(|| self.theirs.read())?;
        for (name, times) in [
            ("ping-pong", &bare),
            ("ours", &ours),
            ("ours, a timer in each read", &with_timers),
            ("vfio_user crate", &theirs),
        ] {
            figures.add(&format!("{name} p50, {at}"), "us", times.p50);
            figures.add(&format!("{name} p99, {at}"), "us", times.p99);
        }
        figures.add(&format!("{READ_RATIO}, {at}"), "", ours.p50 / bare.p50);
        let name = format!("{TIMERS_RATIO}, {at}");
        figures.add(&name, "", with_timers.p50 / bare.p50);
        let p99 = format!("4-byte read p99, ours / ping-pong, {at}");
        figures.add(&p99, "", ours.p99 / bare.p99);
        let name = format!("4-byte read p50, vfio_user crate / ping-pong, {at}");
        figures.add(&name, "", theirs.p50 / bare.p50);
        let bare = rate(|| self.stream.stream(MESSAGES))?;
        let posted = rate(|| self.ours.post(MESSAGES))?;
        figures.add(&format!("bare 36-byte messages one way, {at}"), "k/s", bare);
        figures.add(&format!("posted writes, {at}"), "k/s", posted);
        figures.add(&format!("{POSTED_RATIO}, {at}"), "", posted / bare);
        self.confined.round(cpus, figures)
    }
}

/// Of one run, in microseconds.
struct Times {
    p50: f64,
    p99: f64,
}

impl Times {
    fn of(mut trip: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut nanos = Vec::with_capacity(TRIPS);
        for _ in 0..TRIPS {
            let begin = Instant::now();
            trip()?;
            nanos.push(u32::try_from(begin.elapsed().as_nanos())?);
        }
        nanos.sort_unstable();
        let micros = |index: usize| f64::from(nanos[index]) / 1000.0;
        Ok(Self {
            p50: micros(TRIPS / 2),
            p99: micros(TRIPS * 99 / 100),
        })
    }
}

/// Thousands of messages a second.
fn rate(run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    run()?;
    let messages = f64::from(u32::try_from(MESSAGES)?);
    Ok(messages / begin.elapsed().as_secs_f64() / 1000.0)
}
