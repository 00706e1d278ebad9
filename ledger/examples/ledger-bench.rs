//! Measures the ledger: does what lines on its input ask for and answers each with a JSON line.
//!
//! Usage: ledger-bench FILE NOW    (NOW in milliseconds since 1970, later than at any start before)
//!
//! | line | what is timed |
//! |---|---|
//! | `pairs CLIENTS DEPTH SECONDS` | holds and their posts, so many outstanding of each client |
//! | `steps RATE SECONDS` | each step of pairs that begin at a fixed rate, whatever is answered |
//! | `load COUNT` | plain transfers in units of sixteen |
//! | `audit` | comparing all balances with the whole journal |
//!
//! `scripts/bench-ledger.sh` runs it in turns beside other stores. Clients are numbers of one loop,
//! as the node's are tasks of an executor: it submits, and is told through a channel. Accounts and
//! amounts are drawn with a fixed seed; 1000 payers cannot spend more than they have.

use std::{
    error::Error,
    io::{BufRead, Write},
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, Instant},
};

use aither_ledger::{
    AccountId, AccountKind, Draw, Flags, Ledger, LedgerOptions, OpenAccount, Operation, OwnerId,
    Post, Reserve, Time, Transfer, TransferId, Unit,
};
use aither_protocol::Amount;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FUNDING: u128 = 1;
const PAYERS: (u128, u64) = (1_000_000, 1_000);
const RECEIVERS: (u128, u64) = (2_000_000, 100);
/// What every payer has: more than any run spends.
const FUNDS_MICROS: u128 = 1_000_000_000_000;
/// Longer than any run.
const HOLD_MS: u64 = 3_600_000;
/// Operations of a unit while loading.
const LOAD_UNIT_LEN: usize = 16;
/// Units outstanding while loading.
const LOAD_DEPTH: usize = 512;

/// How often the loop looks what is due while it begins pairs at a fixed rate. Being woken for each
/// would take more of the processor than what is measured.
const TICK: Duration = Duration::from_micros(100);

/// Whose answer it is, when it came, and whether the step was done.
type Answer = (usize, Instant, std::result::Result<bool, String>);

struct Bench {
    ledger: Ledger,
    begin: Instant,
    begin_ms: u64,
    next_id: u128,
    random: u64,
    answers: (Sender<Answer>, Receiver<Answer>),
}

/// A pair under way.
#[derive(Clone, Copy)]
struct Pair {
    hold: TransferId,
    amount: u128,
    is_held: bool,
    /// From when on its present step counts.
    since: Instant,
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, now] = arguments.as_slice() else {
        return Err("usage: ledger-bench FILE NOW".into());
    };
    let begin = Instant::now();
    let ledger = Ledger::open(Path::new(path), LedgerOptions::default())?;
    report(&format!("\"open_seconds\": {}", seconds_since(begin)))?;
    let begin_ms = now.parse()?;
    let mut bench = Bench {
        ledger,
        begin,
        begin_ms,
        // As a ULID: the time above, and what rises below.
        next_id: u128::from(begin_ms) << 80,
        random: 1,
        answers: mpsc::channel(),
    };
    bench.open_accounts()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words.as_slice() {
            ["pairs", clients, depth, seconds] => {
                let len = clients.parse::<usize>()? * depth.parse::<usize>()?;
                bench.pairs(len, duration(seconds)?)?
            }
            ["steps", rate, seconds] => bench.steps(rate.parse()?, duration(seconds)?)?,
            ["load", count] => bench.load(count.parse()?)?,
            ["audit"] => {
                let begin = Instant::now();
                let audit = bench.ledger.view()?.audit()?;
                let seconds = seconds_since(begin);
                format!("\"entries\": {}, \"seconds\": {seconds}", audit.entries)
            }
            _ => return Err(format!("unknown line {line:?}").into()),
        };
        report(&answer)?;
    }
    Ok(())
}

impl Bench {
    /// Opens what is not yet open, and gives every payer something to spend.
    fn open_accounts(&mut self) -> Result<()> {
        if self.ledger.view()?.account(AccountId(FUNDING))?.is_some() {
            return Ok(());
        }
        self.apply(vec![open(FUNDING, false)])?;
        for number in 0..u128::from(RECEIVERS.1) {
            self.apply(vec![open(RECEIVERS.0 + number, false)])?;
        }
        for number in 0..u128::from(PAYERS.1) {
            let payer = PAYERS.0 + number;
            let transfer = self.transfer(FUNDING, payer, FUNDS_MICROS);
            self.apply(vec![open(payer, true), Operation::Transfer(transfer)])?;
        }
        Ok(())
    }

    fn apply(&self, operations: Vec<Operation>) -> Result<()> {
        let usage = None;
        let unit = Unit {
            operations,
            usage,
            note: None,
        };
        let verdict = self.ledger.apply(unit, self.now())?;
        verdict.map_err(|refusal| format!("{refusal:?}"))?;
        Ok(())
    }

    /// Keeps so many pairs outstanding, each a hold and then its post.
    fn pairs(&mut self, len: usize, limit: Duration) -> Result<String> {
        let begin = Instant::now();
        let mut pairs: Vec<Pair> = Vec::with_capacity(len);
        for place in 0..len {
            let pair = self.reserve(place, begin);
            pairs.push(pair);
        }
        let mut outstanding = len;
        let mut done: u64 = 0;
        while outstanding > 0 {
            let place = self.answered()?;
            let pair = &mut pairs[place];
            if !pair.is_held {
                pair.is_held = true;
                let pair = *pair;
                self.post(place, &pair);
                continue;
            }
            done += 1;
            let now = Instant::now();
            if now.duration_since(begin) < limit {
                pairs[place] = self.reserve(place, now);
            } else {
                outstanding -= 1;
            }
        }
        let seconds = seconds_since(begin);
        Ok(format!("\"pairs\": {done}, \"seconds\": {seconds}"))
    }

    /// Begins pairs at a fixed rate and says how long each step takes, counted from when it should
    /// have begun.
    fn steps(&mut self, rate: f64, limit: Duration) -> Result<String> {
        let begin = Instant::now();
        let planned = (rate * limit.as_secs_f64()) as usize;
        let due = |number: usize| begin + Duration::from_secs_f64(number as f64 / rate);
        let mut pairs: Vec<Pair> = Vec::with_capacity(planned);
        let (mut reserves, mut posts) = (Vec::new(), Vec::new());
        while posts.len() < planned {
            while pairs.len() < planned && due(pairs.len()) <= Instant::now() {
                let place = pairs.len();
                let pair = self.reserve(place, due(place));
                pairs.push(pair);
            }
            while let Ok((place, at, answer)) = self.answers.1.try_recv() {
                check(answer)?;
                let pair = &mut pairs[place];
                let took = at.duration_since(pair.since).as_secs_f64();
                if pair.is_held {
                    posts.push(took);
                } else {
                    reserves.push(took);
                    (pair.is_held, pair.since) = (true, Instant::now());
                    let pair = *pair;
                    self.post(place, &pair);
                }
            }
            std::thread::sleep(TICK);
        }
        Ok(format!(
            "\"reserve\": {}, \"post\": {}, \"pairs_per_second\": {}",
            quantiles(&mut reserves),
            quantiles(&mut posts),
            planned as f64 / seconds_since(begin)
        ))
    }

    /// Writes so many transfers.
    fn load(&mut self, count: usize) -> Result<String> {
        let begin = Instant::now();
        let (mut sent, mut outstanding) = (0, 0);
        while sent < count || outstanding > 0 {
            if sent < count && outstanding < LOAD_DEPTH {
                let len = LOAD_UNIT_LEN.min(count - sent);
                let operations = (0..len).map(|_| {
                    let (debit, credit, amount) = self.draw();
                    Operation::Transfer(self.transfer(debit, credit, amount))
                });
                let operations = operations.collect();
                let usage = None;
                self.submit(
                    0,
                    Unit {
                        operations,
                        usage,
                        note: None,
                    },
                );
                (sent, outstanding) = (sent + len, outstanding + 1);
            } else {
                self.answered()?;
                outstanding -= 1;
            }
        }
        let seconds = seconds_since(begin);
        Ok(format!("\"transfers\": {count}, \"seconds\": {seconds}"))
    }

    fn reserve(&mut self, place: usize, since: Instant) -> Pair {
        let (debit, credit, amount) = self.draw();
        let transfer = self.transfer(debit, credit, amount);
        let hold = transfer.id;
        let expires = Time(self.now().0 + HOLD_MS);
        let reserve = Operation::Reserve(Reserve { transfer, expires });
        self.submit(place, Unit::one(reserve));
        Pair {
            hold,
            amount,
            is_held: false,
            since,
        }
    }

    fn post(&self, place: usize, pair: &Pair) {
        let post = Operation::Post(Post {
            hold: pair.hold,
            // As usual a little less than was held.
            amount: Amount::from_micros(pair.amount - pair.amount / 4),
            shares: Vec::new(),
        });
        self.submit(place, Unit::one(post));
    }

    fn submit(&self, place: usize, unit: Unit) {
        let sender = self.answers.0.clone();
        self.ledger.submit(unit, self.now(), move |verdict| {
            let answer = verdict.map(|verdict| verdict.is_ok());
            // The receiver outlives the ledger.
            let answer = answer.map_err(|error| error.to_string());
            let _ = sender.send((place, Instant::now(), answer));
        });
    }

    /// Waits for an answer and returns whose it is.
    fn answered(&self) -> Result<usize> {
        let (place, _, answer) = self.answers.1.recv()?;
        check(answer)?;
        Ok(place)
    }

    fn transfer(&mut self, debit: u128, credit: u128, amount: u128) -> Transfer {
        self.next_id += 1;
        Transfer {
            id: TransferId(self.next_id),
            debit: AccountId(debit),
            credit: AccountId(credit),
            amount: Amount::from_micros(amount),
            draw: Draw::GrantedFirst,
            memo: String::new(),
        }
    }

    /// Draws a payer, a receiver and an amount.
    fn draw(&mut self) -> (u128, u128, u128) {
        let payer = PAYERS.0 + u128::from(self.random() % PAYERS.1);
        let receiver = RECEIVERS.0 + u128::from(self.random() % RECEIVERS.1);
        (payer, receiver, u128::from(1 + self.random() % 1000))
    }

    /// `SplitMix64`.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn now(&self) -> Time {
        let elapsed = u64::try_from(self.begin.elapsed().as_millis());
        Time(self.begin_ms + elapsed.unwrap_or(u64::MAX))
    }
}

fn open(id: u128, is_bounded: bool) -> Operation {
    Operation::Open(OpenAccount {
        id: AccountId(id),
        kind: AccountKind::Customer,
        owner: OwnerId(id),
        flags: Flags {
            debits_within_credits: is_bounded,
            ..Flags::default()
        },
    })
}

fn check(answer: std::result::Result<bool, String>) -> Result<()> {
    if !answer? {
        return Err("a step was refused".into());
    }
    Ok(())
}

/// The median and the 99th percentile, as JSON.
fn quantiles(seconds: &mut [f64]) -> String {
    seconds.sort_unstable_by(f64::total_cmp);
    let at = |share: usize| seconds.get(seconds.len() * share / 100).copied();
    let [middle, late] = [50, 99].map(|share| at(share).unwrap_or(f64::NAN));
    format!("{{\"p50\": {middle}, \"p99\": {late}}}")
}

fn duration(seconds: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(seconds.parse()?)?)
}

fn seconds_since(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64()
}

fn report(fields: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{{{fields}}}")?;
    output.flush()?;
    Ok(())
}
