//! What this node says of its own agents and models: when, and with which numbers.
//!
//! Ads go out when something changes, and again every six hours or so; they end after a day. Each
//! start of the node begins an epoch above all that it, or a copy of its key that was running in
//! the meantime, has used: the highest of what was stored, of the time, and of what comes back from
//! other nodes. So a node that was restored from a backup is heard, and what it said in an earlier
//! life and no longer means is buried.
//!
//! The machine makes unsigned ads. The driver commits [`OwnAds::epoch`] before it signs and sends
//! any of them, and offers each to its own directory too.

use std::{collections::BTreeMap, time::Duration};

use aither_protocol::{Ad, NodeId, SubjectId, SubjectKind, UnixTime, Verified, ad::Offer, limits};

use crate::bucket::{Bucket, Rate};

/// How long an ad is left as it is, and by how much that differs between subjects, so that a node
/// with many does not say all at once.
const REISSUE_AFTER: Duration = Duration::from_secs(5 * 3600 + 1800);
const REISSUE_SPREAD: Duration = Duration::from_secs(3600);

/// How often a subject changes. Receivers take a little more; what changes faster is said once it
/// may be, as it is by then.
const CHANGE_RATE: Rate = Rate {
    burst: 8,
    interval: Duration::from_secs(6 * 60),
};

/// How often a new epoch begins because another life of the key has used a later one. Where two
/// nodes run with one key, each begins one because of the other; it must not outrun the clock.
const NEW_EPOCH_RATE: Rate = Rate {
    burst: 16,
    interval: Duration::from_secs(60),
};

/// Most subjects of a node, buried ones included.
pub const OWN_SUBJECTS_MAX: usize = 1000;

/// What a node says of itself.
#[derive(Debug)]
pub struct OwnAds {
    node: NodeId,
    epoch: u64,
    sequence: u64,
    new_epochs: Bucket,
    subjects: BTreeMap<SubjectId, Own>,
}

#[derive(Debug)]
struct Own {
    kind: SubjectKind,
    name: String,
    /// What it offers; without it, it is buried.
    offer: Option<Offer>,
    /// Whether that is still to be said.
    unsaid: bool,
    /// When it is said again, or for the first time, or need not be remembered any more.
    reissue_at: UnixTime,
    changes: Bucket,
}

/// There are as many subjects as a node may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node announces at most {OWN_SUBJECTS_MAX} agents and models")]
pub struct TooManySubjects;

impl OwnAds {
    /// Begins an epoch.
    pub fn start(node: NodeId, stored_epoch: Option<u64>, now: UnixTime) -> Self {
        let next = stored_epoch.map_or(0, |stored| stored.saturating_add(1));
        Self {
            node,
            epoch: next.max(now.seconds()),
            sequence: 0,
            new_epochs: Bucket::default(),
            subjects: BTreeMap::new(),
        }
    }

    /// Returns the epoch, to be stored before anything of it is sent.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Announces a subject, or what has changed about it. Returns the ad to send, unless all is
    /// said already, or has changed so often that [`due`](Self::due) says it later.
    ///
    /// # Errors
    /// When there are too many.
    pub fn announce(
        &mut self,
        kind: SubjectKind,
        name: &str,
        offer: Offer,
        now: UnixTime,
    ) -> Result<Option<Ad>, TooManySubjects> {
        let subject = SubjectId::of(&self.node, kind, name);
        let known = self.subjects.get(&subject);
        if known.is_some_and(|own| own.offer.as_ref() == Some(&offer)) {
            return Ok(None);
        }
        if known.is_none() && self.subjects.len() >= OWN_SUBJECTS_MAX {
            return Err(TooManySubjects);
        }
        Ok(self.change(kind, name, Some(offer), now))
    }

    /// Says that a subject is gone. Returns the ad to send, if it was announced, unless it has
    /// changed so often that [`due`](Self::due) says it later.
    pub fn withdraw(&mut self, kind: SubjectKind, name: &str, now: UnixTime) -> Option<Ad> {
        let subject = SubjectId::of(&self.node, kind, name);
        let own = self.subjects.get(&subject)?;
        own.offer.as_ref()?;
        self.change(kind, name, None, now)
    }

    /// Returns ads that are to be said, or said again, by now.
    pub fn due(&mut self, now: UnixTime) -> Vec<Ad> {
        // What was buried need not be said again: it has outlived what it buried.
        self.subjects
            .retain(|_, own| own.offer.is_some() || own.unsaid || own.reissue_at > now);
        self.say_again(now, |own| {
            own.reissue_at <= now && (own.offer.is_some() || own.unsaid)
        })
    }

    /// Returns when [`due`](Self::due) has something to say next.
    pub fn next_due(&self) -> Option<UnixTime> {
        self.subjects.values().map(|own| own.reissue_at).min()
    }

    /// Looks at an ad of this node that came from elsewhere, and returns what to say about it: all
    /// again, in a new epoch, where another life of this key has used a later one; that a subject
    /// is gone, where this life does not have it.
    pub fn observe(&mut self, ad: &Verified<Ad>, now: UnixTime) -> Vec<Ad> {
        let latest = now.plus(limits::CLOCK_SKEW_MAX);
        // Nobody takes what is later than that, so nobody has it.
        if ad.node != self.node || ad.epoch > latest.seconds() {
            return Vec::new();
        }
        let of_another_life = (ad.epoch, ad.sequence) > (self.epoch, self.sequence);
        let mut said = Vec::new();
        if of_another_life {
            if !self.new_epochs.take(NEW_EPOCH_RATE, now) {
                return said;
            }
            self.epoch = ad.epoch.saturating_add(1);
            self.sequence = 0;
            said = self.say_again(now, |_| true);
        }
        let unknown = !self.subjects.contains_key(&ad.subject());
        if unknown && !ad.is_tombstone() && self.subjects.len() < OWN_SUBJECTS_MAX {
            said.push(self.say(ad.kind, &ad.name, None, now));
        }
        said
    }

    fn say_again(&mut self, now: UnixTime, which: impl Fn(&Own) -> bool) -> Vec<Ad> {
        let chosen = self.subjects.values().filter(|own| which(own));
        let chosen: Vec<_> = chosen
            .map(|own| (own.kind, own.name.clone(), own.offer.clone()))
            .collect();
        let ads = chosen.into_iter();
        ads.map(|(kind, name, offer)| self.say(kind, &name, offer, now))
            .collect()
    }

    /// Says a change, or remembers that it is to be said.
    fn change(
        &mut self,
        kind: SubjectKind,
        name: &str,
        offer: Option<Offer>,
        now: UnixTime,
    ) -> Option<Ad> {
        let known = self
            .subjects
            .get_mut(&SubjectId::of(&self.node, kind, name));
        if let Some(own) = known
            && !{ own.changes }.take(CHANGE_RATE, now)
        {
            own.offer = offer;
            if !own.unsaid {
                own.unsaid = true;
                own.reissue_at = now.plus(CHANGE_RATE.interval);
            }
            return None;
        }
        Some(self.say(kind, name, offer, now))
    }

    fn say(&mut self, kind: SubjectKind, name: &str, offer: Option<Offer>, now: UnixTime) -> Ad {
        self.sequence += 1;
        let life = match offer {
            Some(_) => limits::AD_LIFE_MAX,
            None => limits::TOMBSTONE_LIFE,
        };
        let ad = Ad {
            node: self.node,
            kind,
            name: name.to_owned(),
            epoch: self.epoch,
            sequence: self.sequence,
            issued: now,
            expires: now.plus(life),
            offer,
        };
        let known = self.subjects.get(&ad.subject());
        let mut changes = known.map_or_else(Bucket::default, |own| own.changes);
        changes.take(CHANGE_RATE, now);
        let own = Own {
            unsaid: false,
            changes,
            kind,
            name: name.to_owned(),
            reissue_at: match ad.offer {
                Some(_) => now.plus(REISSUE_AFTER + spread(&ad.subject())),
                None => ad.expires,
            },
            offer: ad.offer.clone(),
        };
        self.subjects.insert(ad.subject(), own);
        ad
    }
}

/// Differs between subjects, and is the same for one at every time.
fn spread(subject: &SubjectId) -> Duration {
    let [first, second, ..] = *subject.as_bytes();
    let share = u32::from(u16::from_be_bytes([first, second]));
    REISSUE_SPREAD * share / u32::from(u16::MAX)
}
