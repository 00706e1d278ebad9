//! The set of revocations as one node knows it, and how two nodes come to know the same.
//!
//! Nothing is ever taken out, and what is in force is a function of what is in: the order in which
//! entries arrive makes no difference, so all nodes agree once they have the same entries. Each
//! signer numbers its entries without gaps; a node therefore says in a handshake up to which number
//! it has seen each signer's, and is sent the rest. Its size is bounded by the numbers that a
//! signer has, and by how many issuers there may be.
//!
//! An issuer excludes members, never issuers, and only the root takes an exclusion back. When the
//! root excludes an issuer, its entries after the number that the root honours no longer count:
//! else whoever stole its key could exclude everybody.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    FederationId, NodeId, RecordError, limits,
    signed::{Signed, Verified},
};

use super::{Certificate, Issuer, Revocation, RevocationBatch, Rights, Statement};

/// All revocations of a federation that a node knows.
#[derive(Debug, Clone)]
pub struct Revocations {
    federation: FederationId,
    logs: BTreeMap<Issuer, Log>,
    /// What is in force. Made from the logs.
    excluded: BTreeSet<NodeId>,
    /// Issuers that the root has excluded, with the last number of theirs that counts.
    excluded_by_root: BTreeMap<NodeId, u64>,
}

/// The entries of one signer.
#[derive(Debug, Clone)]
struct Log {
    /// What makes it an issuer; the root needs nothing.
    certificate: Option<Verified<Certificate>>,
    entries: BTreeMap<u64, Verified<Revocation>>,
}

/// Up to which number a node has all entries of each signer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RevocationSummary(pub Vec<(Issuer, u64)>);

/// What came of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is new: write it down, and check live connections again.
    New,
    /// It was there.
    Known,
}

/// Why an entry is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// It, or the certificate of its signer, is malformed or forged.
    #[error("the revocation is not valid: {0}")]
    Record(#[from] RecordError),
    /// It is of another federation.
    #[error("the revocation is of another federation")]
    OtherFederation,
    /// No certificate of the root makes its signer an issuer.
    #[error("the signer of the revocation is no issuer of the federation")]
    NotIssuer,
    /// Its signer has another entry with the same number: it has been cloned, or cheats.
    #[error("the signer has signed two revocations with number {0}")]
    Equivocation(u64),
    /// There are as many signers as there may be.
    #[error(
        "more than {} issuers have revoked members",
        limits::REVOKING_ISSUERS_MAX
    )]
    TooManyIssuers,
}

impl Revocations {
    /// Starts with none.
    pub fn new(federation: FederationId) -> Self {
        Self {
            federation,
            logs: BTreeMap::new(),
            excluded: BTreeSet::new(),
            excluded_by_root: BTreeMap::new(),
        }
    }

    /// Whether a node is excluded.
    pub fn excludes(&self, node: &NodeId) -> bool {
        self.excluded.contains(node)
    }

    /// Whether the root has excluded a node, and with it all that it signed as an issuer.
    pub fn excludes_issuer(&self, node: &NodeId) -> bool {
        self.excluded_by_root.contains_key(node)
    }

    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.logs.values().map(|log| log.entries.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Returns the number that a signer's next entry has; none when it has used up all.
    pub fn next_number(&self, signer: &Issuer) -> Option<u64> {
        let last = self
            .logs
            .get(signer)
            .and_then(|log| log.entries.keys().next_back());
        let next = last.map_or(1, |last| last + 1);
        (next <= Revocation::number_max(signer)).then_some(next)
    }

    /// Takes an entry, with the certificate that makes its signer an issuer unless that is the
    /// root or was given before. The certificate may have expired since: what an issuer has said
    /// stays said.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn merge(
        &mut self,
        entry: Signed<Revocation>,
        certificate: Option<&Signed<Certificate>>,
    ) -> Result<Merged, RevocationError> {
        let merged = self.insert(entry, certificate)?;
        if merged == Merged::New {
            self.put_in_force();
        }
        Ok(merged)
    }

    /// Takes the entries of a message, and returns how many were new. Those before one that is not
    /// taken stay.
    ///
    /// # Errors
    /// Why an entry is not taken: its sender should have known.
    pub fn merge_batch(&mut self, batch: &RevocationBatch) -> Result<usize, RevocationError> {
        let mut new = 0;
        let taken = batch.entries.iter().try_for_each(|entry| {
            let certificate = batch.certificate_of(entry.claimed());
            let merged = self.insert(entry.clone(), certificate)?;
            new += usize::from(merged == Merged::New);
            Ok(())
        });
        if new > 0 {
            self.put_in_force();
        }
        taken.map(|()| new)
    }

    fn insert(
        &mut self,
        entry: Signed<Revocation>,
        certificate: Option<&Signed<Certificate>>,
    ) -> Result<Merged, RevocationError> {
        let claimed = entry.claimed();
        if claimed.federation != self.federation {
            return Err(RevocationError::OtherFederation);
        }
        let (signer, number) = (claimed.signer, claimed.number);
        if let Some(known) = self
            .logs
            .get(&signer)
            .and_then(|log| log.entries.get(&number))
        {
            if known.as_bytes() == entry.as_bytes() {
                return Ok(Merged::Known);
            }
            // Only a signer can be blamed for two of one number, not who says so.
            entry.verify(&[])?;
            return Err(RevocationError::Equivocation(number));
        }
        let entry = entry.verify(&[])?;
        self.log(signer, certificate)?.entries.insert(number, entry);
        Ok(Merged::New)
    }

    /// Returns up to which number it has all entries of each signer.
    pub fn summary(&self) -> RevocationSummary {
        let seen = self
            .logs
            .iter()
            .map(|(signer, log)| (*signer, log.contiguous()));
        RevocationSummary(seen.collect())
    }

    /// Returns entries that somebody with this summary has not, at most so many, with the
    /// certificates of their signers. Ask again with the summary that comes of them for the rest.
    pub fn missing(
        &self,
        summary: &RevocationSummary,
        entries_max: usize,
    ) -> Vec<(&Verified<Revocation>, Option<&Verified<Certificate>>)> {
        let seen: BTreeMap<_, _> = summary.0.iter().copied().collect();
        let logs = self.logs.iter().flat_map(|(signer, log)| {
            let seen = seen.get(signer).copied().unwrap_or(0);
            let entries = log.entries.range(seen.saturating_add(1)..);
            entries.map(|(_, entry)| (entry, log.certificate.as_ref()))
        });
        logs.take(entries_max).collect()
    }

    /// Returns the log of a signer, which is opened once it has shown that it is an issuer.
    fn log(
        &mut self,
        signer: Issuer,
        certificate: Option<&Signed<Certificate>>,
    ) -> Result<&mut Log, RevocationError> {
        if !self.logs.contains_key(&signer) {
            let certificate = match &signer {
                Issuer::Root => None,
                Issuer::Node(node) => Some(self.issuer(node, certificate)?),
            };
            // The root is one more, and is never kept out.
            let issuers = self.logs.keys().filter(|known| **known != Issuer::Root);
            if certificate.is_some() && issuers.count() >= limits::REVOKING_ISSUERS_MAX {
                return Err(RevocationError::TooManyIssuers);
            }
            let entries = BTreeMap::new();
            let log = Log {
                certificate,
                entries,
            };
            self.logs.insert(signer, log);
        }
        self.logs.get_mut(&signer).ok_or(RevocationError::NotIssuer)
    }

    fn issuer(
        &self,
        node: &NodeId,
        certificate: Option<&Signed<Certificate>>,
    ) -> Result<Verified<Certificate>, RevocationError> {
        let certificate = certificate.ok_or(RevocationError::NotIssuer)?;
        let claimed = certificate.claimed();
        let issues = claimed.subject == *node
            && claimed.federation == self.federation
            && claimed.rights.contains(Rights::ISSUER);
        if !issues {
            return Err(RevocationError::NotIssuer);
        }
        Ok(certificate.clone().verify(&[])?)
    }

    /// Makes what is in force from the logs. They are short, and change once in a while.
    fn put_in_force(&mut self) {
        let statements = |signer: &Issuer| {
            let log = self.logs.get(signer);
            let entries = log.into_iter().flat_map(|log| log.entries.values());
            entries.map(|entry| (entry.number, entry.statement))
        };
        let lifted: BTreeSet<_> = statements(&Issuer::Root)
            .filter_map(|(_, statement)| match statement {
                Statement::Lift { signer, number } => Some((signer, number)),
                Statement::Exclude { .. } => None,
            })
            .collect();
        let exclusions = |signer: Issuer| {
            let lifted = &lifted;
            statements(&signer).filter_map(move |(number, statement)| match statement {
                Statement::Exclude { node, honoured } if !lifted.contains(&(signer, number)) => {
                    Some((number, node, honoured))
                }
                _ => None,
            })
        };
        let mut excluded = BTreeSet::new();
        let mut excluded_by_root = BTreeMap::new();
        for (_, node, honoured) in exclusions(Issuer::Root) {
            excluded.insert(node);
            // Of several exclusions the strictest counts.
            let least = excluded_by_root.entry(node).or_insert(honoured);
            *least = honoured.min(*least);
        }
        for signer in self.logs.keys() {
            let Issuer::Node(issuer) = signer else {
                continue;
            };
            let honoured = excluded_by_root.get(issuer).copied().unwrap_or(u64::MAX);
            let honoured = exclusions(*signer).filter(|(number, ..)| *number <= honoured);
            excluded.extend(honoured.map(|(_, node, _)| node));
        }
        (self.excluded, self.excluded_by_root) = (excluded, excluded_by_root);
    }
}

impl Log {
    fn contiguous(&self) -> u64 {
        let numbers = self.entries.keys().copied();
        let gapless = (1..).zip(numbers).take_while(|(at, number)| at == number);
        gapless.last().map_or(0, |(_, number)| number)
    }
}
