//! Measures what telling who asks costs, without HTTP: in the stores of a node that has stopped.
//!
//! Usage: auth-cost DATA_DIR ROUNDS < KEYS    (keys and capability tokens of agents, one a line)
//!
//! Prints a JSON line with seconds per request: `key` and `token` for finding out whose they are
//! and what these may do, `admit` for what the owner's plan then counts. The script
//! `scripts/bench-onboarding.sh` runs it once its agents are aboard, since a lookup among many
//! misses caches that one among few would hit. The row of a route is not in it: that is a lookup in
//! a small table, which only the whole request over HTTP, measured there too, goes through.

use std::{
    error::Error,
    hint::black_box,
    io::{BufRead, Write},
    path::Path,
    time::{Duration, Instant},
};

use aither_node::{
    accounts::AccountId,
    agents::AgentCaller,
    config::AccountsConfig,
    data_dir,
    identity::NodeIdentity,
    services::{AccountService, AgentService, EventService, Targets},
};
use aither_protocol::CAPABILITY_TOKEN_PREFIX;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is presented, by what it is.
struct Presented {
    keys: Vec<String>,
    tokens: Vec<String>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(rounds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: auth-cost DATA_DIR ROUNDS < KEYS".into());
    };
    let rounds = rounds.parse()?;
    let presented = Presented::read(std::io::stdin().lock())?;
    let (accounts, agents) = open(Path::new(&folder))?;
    let callers = presented.keys.iter().map(|key| agents.authenticate(key));
    let callers: Vec<AgentCaller> = callers.collect::<std::result::Result<_, _>>()?;

    let by_key = per_request(&presented.keys, rounds, |key| {
        black_box(agents.authenticate(key)).is_ok()
    })?;
    let by_token = per_request(&presented.tokens, rounds, |text| {
        black_box(agents.authenticate_token(text)).is_ok()
    })?;
    let admit = per_request(&callers, rounds, |caller| {
        let owner = AccountId::from_u128(caller.agent.owner.0);
        black_box(accounts.admit(owner, caller.plan)).is_ok()
    })?;
    let found = serde_json::json!({
        "agents": agents.count(),
        "key": by_key.as_secs_f64(),
        "token": by_token.as_secs_f64(),
        "admit": admit.as_secs_f64(),
    });
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}

fn open(folder: &Path) -> Result<(AccountService, AgentService)> {
    let identity = NodeIdentity::load(&folder.join("identity.key"))?;
    let identity = identity.ok_or("the data directory has no identity.key")?;
    let path = data_dir::accounts_path(folder);
    let accounts = AccountService::open(&path, AccountsConfig::default(), None)?;
    let path = data_dir::registry_path(folder);
    let agents = AgentService::open(
        &path,
        accounts.clone(),
        &identity,
        Targets::Any,
        None,
        EventService::default(),
    )?;
    Ok((accounts, agents))
}

impl Presented {
    fn read(lines: impl BufRead) -> Result<Self> {
        let lines = lines.lines().collect::<std::io::Result<Vec<_>>>()?;
        let lines = lines.into_iter().filter(|line| !line.is_empty());
        let (tokens, keys) = lines.partition(|line| line.starts_with(CAPABILITY_TOKEN_PREFIX));
        Ok(Self { keys, tokens })
    }
}

/// Returns what one of them takes; each must succeed.
fn per_request<T>(all: &[T], rounds: u32, ask: impl Fn(&T) -> bool) -> Result<Duration> {
    let count = u32::try_from(all.len())?.saturating_mul(rounds);
    if count == 0 {
        return Err("nothing to measure with: give keys and tokens on standard input".into());
    }
    let begun = Instant::now();
    for _ in 0..rounds {
        if !all.iter().all(&ask) {
            return Err("one was refused that the node had given out".into());
        }
    }
    Ok(begun.elapsed() / count)
}
