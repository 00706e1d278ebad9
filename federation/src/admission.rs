//! Who is let in: what a node makes of a peer's hello, and what an issuer makes of a newcomer.
//!
//! Both are asked again whenever it matters: a membership is judged at each hello, when a
//! revocation arrives, and when it ends. Nothing here signs; who may have a certificate is decided,
//! the driver stores that an invite was used, and signs then.

use std::collections::BTreeMap;

use aither_protocol::{
    FederationId, NodeId, UnixTime, Verified, limits,
    membership::{
        Certificate, Hello, Introduction, Issuer, JoinRefusal, JoinRequest, Member, Membership,
        MembershipError, OpenInvites, Presented, RedeemError, Revocations, Rights,
    },
};

/// What a node is in one federation.
#[derive(Debug)]
pub struct OwnFederation {
    /// That it is a member. None in an open federation, and before it has joined.
    pub membership: Option<Membership>,
    /// What was taken back.
    pub revocations: Revocations,
    /// Whether strangers take part without a certificate.
    pub open: bool,
    /// Whether this node lets others in.
    pub issues: bool,
}

/// The federations that a node is in.
#[derive(Debug, Default)]
pub struct OwnFederations(pub BTreeMap<FederationId, OwnFederation>);

/// What a peer may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is a member of these.
    Member(Vec<(FederationId, Member)>),
    /// It may take part in these open federations, within the limits of strangers.
    Stranger(Vec<FederationId>),
    /// It may ask for a certificate, and nothing else.
    Joining,
    /// Nothing.
    Refused(Refusal),
}

/// Why a peer may do nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The two are in no federation together.
    #[error("the two nodes are in no federation together")]
    NothingInCommon,
    /// They are, but it has nothing to show.
    #[error("the node shows no certificate; join with an invite")]
    NoCertificate,
    /// What it shows does not hold.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// What an issuer is.
#[derive(Debug)]
pub struct IssuerDesk {
    /// The federation.
    pub federation: FederationId,
    /// As whom it signs.
    pub issuer: Issuer,
    /// Its invites.
    pub invites: OpenInvites,
    /// The node that asks its newcomers to come to it: part of what invites are known by.
    pub node: NodeId,
}

impl OwnFederations {
    /// Returns what to say to a peer, of those federations that it may hear of.
    pub fn hello(&self, shown: impl Fn(&FederationId) -> bool) -> Hello {
        let shown = self.0.iter().filter(|(id, _)| shown(id));
        let introductions = shown.map(|(id, own)| Introduction {
            federation: *id,
            membership: own.membership.clone(),
            revocations: own.revocations.summary(),
        });
        Hello(introductions.take(limits::HELLO_FEDERATIONS_MAX).collect())
    }

    /// Judges a peer, whose key the connection has proved, by what it says.
    pub fn judge(&self, peer: &NodeId, hello: &Hello, now: UnixTime) -> Judgement {
        let (mut member_of, mut stranger_in, mut joins) = (Vec::new(), Vec::new(), false);
        let mut refusal = Refusal::NothingInCommon;
        for introduction in &hello.0 {
            let id = introduction.federation;
            let Some(own) = self.0.get(&id) else {
                continue;
            };
            match own.judge(peer, introduction, now) {
                Ok(Some(member)) => member_of.push((id, member)),
                Ok(None) => stranger_in.push(id),
                Err(error) => {
                    joins |= own.issues && may_join(&error);
                    refusal = error;
                }
            }
        }
        if !member_of.is_empty() {
            Judgement::Member(member_of)
        } else if !stranger_in.is_empty() {
            Judgement::Stranger(stranger_in)
        } else if joins {
            Judgement::Joining
        } else {
            Judgement::Refused(refusal)
        }
    }
}

impl OwnFederation {
    /// Returns the peer's membership, or none where it needs none.
    fn judge(
        &self,
        peer: &NodeId,
        introduction: &Introduction,
        now: UnixTime,
    ) -> Result<Option<Member>, Refusal> {
        if self.revocations.excludes(peer) {
            return Err(MembershipError::Revoked.into());
        }
        let Some(membership) = &introduction.membership else {
            return if self.open {
                Ok(None)
            } else {
                Err(Refusal::NoCertificate)
            };
        };
        let member = membership.verify(Presented {
            federation: &introduction.federation,
            peer,
            revocations: &self.revocations,
            now,
        });
        Ok(Some(member?))
    }
}

impl IssuerDesk {
    /// Decides whether a node gets a certificate, and returns what it is to say. A used invite must
    /// be stored before the certificate is signed.
    ///
    /// # Errors
    /// Why it gets none.
    pub fn decide(
        &mut self,
        request: JoinRequest,
        peer: &NodeId,
        revocations: &Revocations,
        serial: u64,
        now: UnixTime,
    ) -> Result<Certificate, JoinRefusal> {
        if *request.federation() != self.federation {
            return Err(JoinRefusal::NotIssuer);
        }
        if revocations.excludes(peer) {
            return Err(JoinRefusal::Excluded);
        }
        match request {
            JoinRequest::WithSecret { secret, .. } => {
                let hash = secret.hash(&self.federation, &self.node);
                let redeemed = self.invites.redeem(&hash, peer, now);
                redeemed.map_err(refusal_of)?;
            }
            JoinRequest::Renewal { certificate } => {
                let certificate = certificate.verify(&[]);
                let certificate = certificate.map_err(|_| JoinRefusal::NotRenewable)?;
                if !self.renews(&certificate, peer, now) {
                    return Err(JoinRefusal::NotRenewable);
                }
            }
        }
        Ok(Certificate {
            federation: self.federation,
            subject: *peer,
            issuer: self.issuer,
            serial,
            not_before: now,
            expires: now.plus(limits::CERTIFICATE_LIFE_MAX),
            rights: Rights::MEMBER,
        })
    }

    /// Whether a certificate is one of this issuer's for that node. It may have ended while the
    /// node was away: whoever is to stay out is excluded, not waited for.
    fn renews(&self, old: &Verified<Certificate>, peer: &NodeId, now: UnixTime) -> bool {
        old.issuer == self.issuer
            && old.subject == *peer
            && old.rights.contains(Rights::MEMBER)
            && now.since(old.expires) <= limits::RENEWAL_GRACE
    }
}

/// Whether somebody who was refused may ask for a certificate, a new one or again.
fn may_join(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::NoCertificate
            | Refusal::Membership(MembershipError::Expired(_) | MembershipError::IssuerRevoked)
    )
}

fn refusal_of(error: RedeemError) -> JoinRefusal {
    match error {
        RedeemError::Unknown => JoinRefusal::UnknownInvite,
        RedeemError::Expired => JoinRefusal::ExpiredInvite,
        RedeemError::Spent => JoinRefusal::SpentInvite,
        _ => JoinRefusal::Other,
    }
}
